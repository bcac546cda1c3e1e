"""What a machine can't hold is refused before the first byte, in one sentence with both numbers; a plan only says so."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dmkd.cli.main import main
from dmkd.engine.engine import Engine
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.import_images import ImportOptions, import_images
from dmkd.making.limits import block_memory, obstacles
from dmkd.making.sizes import StoreSize, missing_bytes
from dmkd.plan import CostOptions, plan
from dmkd.runtime.devices import check_workers
from dmkd.runtime.progress import Silent
from dmkd.stores import UsageError, open_store

HERE = RunOptions(workers=0, device="cpu")
GB = 10**9


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def machine(monkeypatch):
    """Sets what this machine has to spare: bytes of memory, bytes on its disk."""

    def has(memory=16 * GB, disk=1000 * GB):
        monkeypatch.setattr("dmkd.making.limits.available_memory", lambda: memory)
        monkeypatch.setattr("dmkd.making.limits.free_disk", lambda path: disk)

    has()
    return has


@pytest.fixture
def made(tmp_path, tiny_generator):
    """A function that makes or grows a store of images."""

    def make(images=40, **options):
        given = {"generator": str(tiny_generator), "sampler": "ddim", "steps": 2, "block_size": 16, **options}
        return generate(
            str(tmp_path / "s.zarr"), ImageOptions(images=images, **given), LabelOptions(("none",)), HERE, Silent()
        )[0]

    return make


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--images", 99999999999999], "at most 4,294,967,296 images, and 99,999,999,999,999 were asked for"),
        (["--images", 4_000_000_000], "new.zarr needs 13.3 TB of disk space, and 1.0 TB are free there"),
        (["--images", 10, "--block-size", 99999999], "need about 614.4 GB of memory, and 16.0 GB are available"),
        (["--images", 10, "--views", "rrc:4096", "--block-size", 200_000], "of memory, and 16.0 GB are available"),
    ],
)
def test_generate_refuses_what_does_not_fit_and_writes_nothing(tmp_path, monkeypatch, machine, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    done = dmkd("generate", "--generator", "digits", "--device", "cpu", "--store", "new.zarr", *arguments)
    assert done.exit_code == 2 and sentence in done.stderr, done.output
    assert "Traceback" not in done.output and not list(tmp_path.iterdir())


def test_no_store_grows_beyond_its_ids(made, machine):
    made()
    with pytest.raises(UsageError, match=r"at most 4,294,967,296 images, and 4,294,967,297 were asked for"):
        made(2**32 + 1)


def test_a_plan_for_another_machine_says_what_does_not_fit_here(tmp_path, monkeypatch, machine):
    monkeypatch.chdir(tmp_path)
    options = ("--generator", "digits", "--device", "cpu")
    done = dmkd("plan", *options, "--images", 4_000_000_000)
    assert done.exit_code == 0, done.output
    assert "new.zarr needs 13.3 TB of disk space, and 1.0 TB are free there" in " ".join(done.stdout.split())
    done = dmkd("plan", *options, "--images", 5_000_000_000)
    assert done.exit_code == 2 and "at most 4,294,967,296 images" in done.stderr


def test_a_plan_of_any_size_takes_little_memory(tmp_path, tiny_generator, machine):
    def planned(images):
        given = ImageOptions(generator=str(tiny_generator), images=images, block_size=1)
        return plan(str(tmp_path / "s.zarr"), given, LabelOptions(("none",)), CostOptions(), "cpu")

    planned(10)
    tracemalloc.start()
    found = planned(2**32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["left"]["images"] == found["blocks"] == 2**32
    assert peak < 50e6


def test_a_store_that_is_there_needs_what_it_lacks(made, machine):
    store = made()
    machine(disk=0)
    made()  # nothing is missing
    (Path(store.path) / "images" / "c.1.0.0.0").unlink()
    machine(disk=16 * 3072 + 4 - 1)
    with pytest.raises(UsageError, match=r"s\.zarr needs 49\.2 kB of disk space, and 49\.2 kB are free"):
        made()
    machine(disk=16 * 3072 + 4)
    made()
    machine(disk=2 * (16 * (3072 + 4 + 8) + 12) - 1)
    with pytest.raises(UsageError, match="free some space"):
        made(40 + 32)
    assert store.refresh() is None and store.num_images == 40
    machine(disk=2 * (16 * (3072 + 4 + 8) + 12))
    assert made(40 + 32).num_images == 72


def test_labels_need_room_too(made, machine, tiny_teacher):
    store = made()
    (Path(store.path) / "images" / "c.1.0.0.0").unlink()  # neither made nor labelled by dmkd label
    views, logits, checks, quality = 16 * 3 * 6 * 4, 16 * 3 * 10 * 2, 16 * 8, 16 * 12
    needed = 2 * (views + logits + checks + quality + 4 * 4)
    wanted = LabelOptions((str(tiny_teacher),), "rrc:2")
    machine(disk=needed - 1)
    with pytest.raises(UsageError, match="of disk space"):
        label(store.path, wanted, HERE, Silent())
    assert not open_store(store.path).labels and not open_store(store.path).views
    machine(memory=1000)
    with pytest.raises(
        UsageError, match=r"Blocks of 16 images need about .* choose a smaller --block-size or fewer --views"
    ):
        label(store.path, wanted, HERE, Silent())
    machine(disk=needed)
    label(store.path, wanted, HERE, Silent())
    machine(memory=0, disk=0)
    label(store.path, LabelOptions(), HERE, Silent())  # nothing is missing


def test_what_is_known_roughly_is_refused_only_if_clearly_too_large(tmp_path, machine):
    size = StoreSize(1000, 250, (32, 32, 3), "jpeg:95", None)
    machine(disk=0)
    (sentence,) = obstacles(str(tmp_path / "s.zarr"), size, [], 1)
    assert "needs about" in sentence
    exact, about = (missing_bytes(size, [])[known] for known in ("exact", "about"))
    assert exact == 4 * (250 * 12 + 8)
    machine(disk=exact + about // 2 + 1)
    assert not obstacles(str(tmp_path / "s.zarr"), size, [], 1)
    machine(disk=exact + about // 2 - 1)
    assert obstacles(str(tmp_path / "s.zarr"), size, [], 1)


def test_imports_too(tmp_path, machine):
    for i in range(4):
        (tmp_path / "in" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(tmp_path / "in" / str(i % 2) / f"{i}.png")
    source, path = str(tmp_path / "in"), str(tmp_path / "s.zarr")
    with pytest.raises(UsageError, match=r"Blocks of 10,000,000 images need about 61\.4 GB of memory, and 16\.0 GB"):
        import_images(path, source, ImportOptions(block_size=10_000_000), Silent())
    machine(disk=1000)
    with pytest.raises(UsageError, match=r"needs 789\.5 kB of disk space, and 1\.0 kB are free"):
        import_images(path, source, ImportOptions(), Silent())
    assert not Path(path).exists()


def test_in_a_bucket_and_on_other_machines_nothing_is_known(monkeypatch):
    size = StoreSize(2**32, 2**20, (256, 256, 3), "raw", None)
    monkeypatch.setattr("dmkd.making.limits.available_memory", lambda: 1)
    assert not obstacles("s3://bucket/s.zarr", size, [], workers=None)
    assert len(obstacles("s3://bucket/s.zarr", size, [], workers=1)) == 1


def test_every_worker_holds_blocks(tmp_path, machine):
    size = StoreSize(1000, 100, (32, 32, 3), "raw", None)
    assert block_memory(size, []) == 4 * 100 * 3072
    machine(memory=4 * 4 * 100 * 3072)
    assert not obstacles(str(tmp_path), size, [], workers=4)
    (sentence,) = obstacles(str(tmp_path), size, [], workers=5)
    assert "with 5 workers" in sentence and sentence.endswith("fewer --views or --workers.")


def test_more_workers_than_the_machine_can_hold_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dmkd.runtime.devices.cpu_cores", lambda: 2)
    done = dmkd("generate", "--generator", "digits", "--device", "cpu", "--store", "new.zarr", "--workers", 99)
    assert done.exit_code == 2 and not list(tmp_path.iterdir())
    assert "--workers 99 is more than this machine can hold: with 2 cores and" in done.stderr
    monkeypatch.setattr("dmkd.runtime.devices.available_memory", lambda: 3 * GB)
    check_workers(3, "cpu")
    with pytest.raises(UsageError, match=r"3\.0 GB of memory available, at most 3\."):
        check_workers(4, "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_workers(2, "cuda")
    with pytest.raises(UsageError, match="--workers 3: each takes a GPU of its own, and this machine has 2"):
        check_workers(3, "cuda")


def test_workers_that_share_cores_are_pointed_out(made, monkeypatch):
    notices = []

    class Told(Silent):
        def notice(self, text):
            notices.append(text)

    store = made(1)
    monkeypatch.setattr("dmkd.engine.engine.cpu_cores", lambda: 1)
    for workers in (1, 2):
        Engine(store, RunOptions(workers, "cpu"), "cpu", Told(), "test", {})
    assert notices == ["More workers (2) than cores (1): they compete for the cores, which is rarely faster."]
