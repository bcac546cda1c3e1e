"""What many tests share: a tiny generator, a tiny teacher, small stores. Everything is made here, nothing is fetched."""

import http.server
import logging
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported anywhere: tests use no network
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is: as the command line does

import numpy as np
import pytest
from hub_server import TOKEN, HubServer
from places import PLACES, Folder
from store_schema import problems_below

from dmkd.stores import Store, create_store, parse_codec

TESTS = Path(__file__).resolve().parent  # where processes that a test starts find these helpers
CLASS_NAMES = [str(i) for i in range(10)]
TEACHER = {"name": "t", "architecture": "t"}

# Of every server that a test starts: else an answer's body waits 40 ms for the other side to confirm its headers.
http.server.BaseHTTPRequestHandler.disable_nagle_algorithm = True


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers share the tests file by file, since fixtures are those of a file; files that start Ray say that they belong
    together, so that one Ray runs at a time."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory) -> Path:
    """A pipeline folder: a DiT of ten classes with random weights, 32x32 pixels, some milliseconds an image."""
    from tiny_models import save_tiny_dit

    folder = tmp_path_factory.mktemp("generator") / "tiny"
    save_tiny_dit(folder, num_classes=10)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory) -> Path:
    """A timm model folder: test_resnet with random weights, ten classes, 32x32 pixels."""
    return make_teacher(tmp_path_factory.mktemp("teacher") / "tiny-resnet", seed=0)


@pytest.fixture(scope="session")
def other_teacher(tmp_path_factory) -> Path:
    """Another teacher of the same classes: another architecture."""
    return make_teacher(tmp_path_factory.mktemp("teacher") / "tiny-efficientnet", "test_efficientnet", seed=1)


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """``s3://…`` of an empty bucket on moto's S3 server, in this process; the environment says where it is."""
    pytest.importorskip("moto.server", reason="needs moto (pip install 'dmkd[dev]')")
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
            "AWS_ACCESS_KEY_ID": "dmkd",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="dmkd-tests")
        yield "s3://dmkd-tests"
    server.stop()


@pytest.fixture
def hub(monkeypatch) -> Iterator[HubServer]:
    """A hub of the test's own, empty, that this process and those it starts may write to."""
    import huggingface_hub.constants as constants

    server = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name, value in {
        "HF_ENDPOINT": server.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


@pytest.fixture(params=PLACES)
def place(request, tmp_path) -> Folder:
    """Where a store can be made: in a folder, in a bucket, and in an HDF5 file."""
    return PLACES[request.param].new(tmp_path, request)


@pytest.fixture(autouse=True)
def _stores_are_of_the_format(request, tmp_path_factory) -> Iterator[None]:
    """Whatever stores a test has made, their metadata is what the format's schema says."""
    yield
    base = tmp_path_factory.getbasetemp()
    new = [folder for folder in base.iterdir() if folder.name not in _LOOKED_INTO and not folder.is_symlink()]
    _LOOKED_INTO.update(folder.name for folder in new)
    if not request.node.get_closest_marker("breaks_metadata"):
        problems = [problem for folder in new if folder.is_dir() for problem in problems_below(folder)]
        assert not problems, "\n".join(["Stores that the test made are not of the format:", *problems])


_LOOKED_INTO: set[str] = set()


def make_teacher(folder: Path, architecture: str = "test_resnet", seed: int = 0, num_classes: int = 10) -> Path:
    import torch

    from dmkd.classifiers.students import create_student, save_student

    torch.manual_seed(seed)
    model = create_student(architecture, num_classes, image_size=32)
    preprocessing = {
        "input_size": 32,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    save_student(folder, model, architecture, [str(i) for i in range(num_classes)], preprocessing)
    return folder


def new_store(path: Path | str, num_images: int = 100, block_size: int = 16, num_views: int = 2, **options) -> Store:
    """An empty store of 8x8 images with view set ``views`` and label set ``teacher``."""
    store = create_store(
        str(path),
        recipe=options.get("recipe", {"generator": "none", "seed": 0}),
        num_images=num_images,
        image_shape=options.get("image_shape", (8, 8, 3)),
        class_names=CLASS_NAMES,
        block_size=block_size,
        image_codec=options.get("image_codec", "raw"),
    )
    components = ("top", "left", "height", "width", "flip")
    description = {"policy": "test", "size": 8, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
    store.add_view_set("views", num_views, components, description)
    store.add_label_set(
        "teacher", teacher=TEACHER, source="t", view_set="views", codec=parse_codec("float16"), num_classes=10
    )
    return store


def block_arrays(store: Store, block: int, num_views: int = 2, seed: int | None = None) -> dict:
    """Random contents of a block, a function of ``seed``, which is its number if not given: what ``write_block`` takes."""
    rng, count = np.random.default_rng(block if seed is None else seed), len(store.block_ids(block))
    views = np.tile(np.array([0, 0, 1, 1, 0], np.float32), (count, num_views, 1))
    arrays = {
        "images": rng.integers(0, 256, (count, *store.image_shape)).astype(np.uint8),
        "class_ids": rng.integers(0, 10, count).astype(np.int32),
        "views": {"views": views},
        "labels": {
            "teacher": (
                rng.normal(size=(count, num_views, 10)).astype(np.float32),
                rng.random((count, 3)).astype(np.float32),
            )
        },
    }
    arrays["labels"]["teacher"][1][:, 0] = rng.integers(0, 10, count)  # the teacher's top-1
    return arrays


def filled_store(path: Path | str, **options) -> Store:
    store = new_store(path, **options)
    for block in range(store.num_blocks):
        store.write_block(block, **block_arrays(store, block, options.get("num_views", 2)))
    return store


def tree_bytes(path: Path) -> dict[str, bytes]:
    """Every chunk below a store, by name: what two equal stores have in common to the bit."""
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("c.*")) if f.is_file()}
