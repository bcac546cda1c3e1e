"""Image codecs: what a reader gets is what the teacher saw, lossless ones lose nothing, damage is an error."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from conftest import tree_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dmkd.cli.main import main
from dmkd.stores import DamagedChunkError, UsageError, create_store, open_store
from dmkd.stores.image_chunks import JpegCodec, WebpCodec
from dmkd.stores.image_codecs import parse_image_codec

IMAGES = arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 17), st.integers(1, 17), st.just(3)))


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def smooth(count, size=32, seed=0):
    """Images that a picture might be: a few waves, uint8 (count, size, size, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(0, 3, (count * 3, 3))]
    return np.round(127.5 + 120 * np.array(waves)).astype(np.uint8).reshape(count, 3, size, size).transpose(0, 2, 3, 1)


def store_of(path, codec, images, block_size=4):
    store = create_store(
        str(path),
        recipe={"generator": "none", "image_codec": codec},
        num_images=len(images),
        image_shape=images.shape[1:],
        class_names=["a", "b"],
        block_size=block_size,
        image_codec=codec,
    )
    for block in range(store.num_blocks):
        ids = np.array(store.block_ids(block))
        store.write_block(block, images=images[ids], class_ids=np.zeros(len(ids), np.int32))
    return open_store(path)


@settings(deadline=None)
@given(IMAGES)
def test_webp_gives_every_pixel_back(images):
    codec = WebpCodec()
    assert np.array_equal(codec.as_stored(images), images)
    assert codec.encode_images(images) == codec.encode_images(images.copy())


@settings(deadline=None)
@given(IMAGES, st.integers(1, 100))
def test_jpeg_is_the_same_every_time_and_says_what_a_reader_gets(images, quality):
    codec = JpegCodec(quality)
    chunk = codec.encode_images(images)
    assert chunk == codec.encode_images(np.asfortranarray(images))
    seen = codec.as_stored(images)
    assert seen.shape == images.shape and seen.dtype == np.uint8
    assert np.array_equal(codec.decode_images(memoryview(chunk), images.shape), seen)


@settings(deadline=None)
@given(IMAGES)
def test_jpeg_at_full_quality_is_near(images):
    """4:4:4: no image is far off, not even one of random colours."""
    assert np.abs(JpegCodec(100).as_stored(images).astype(int) - images).mean() < 2


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([JpegCodec(95), WebpCodec()]))
def test_what_is_no_chunk_is_an_error(chunk, codec):
    with pytest.raises(ValueError):  # noqa: PT011  # any sentence; the store says which chunk it was
        codec.decode_images(memoryview(chunk), (2, 8, 8, 3))


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([JpegCodec(95), WebpCodec()]))
def test_a_damaged_chunk_is_an_error_or_images_of_the_right_shape(data, codec):
    chunk = bytearray(codec.encode_images(smooth(2, 8)))
    place = data.draw(st.integers(0, len(chunk) - 1))
    chunk[place] ^= data.draw(st.integers(1, 255))
    try:
        images = codec.decode_images(memoryview(bytes(chunk)), (2, 8, 8, 3))
    except ValueError:
        return
    assert images.shape == (2, 8, 8, 3)  # the chunk's crc32c is what finds these


def test_names():
    names = {"raw": "raw", "webp": "webp", "jpeg": "jpeg:95", "jpeg:80": "jpeg:80", None: "raw"}
    assert {name: str(parse_image_codec(name)) for name in names} == names
    assert [parse_image_codec(name).lossy for name in ("raw", "webp", "jpeg")] == [False, False, True]
    for name in ("jpg", "jpeg:", "jpeg:0", "jpeg:101", "jpeg:9.5", "jpeg:²", "raw:1", "webp:3", "png"):
        with pytest.raises(UsageError, match="There is no image codec"):
            parse_image_codec(name)


@pytest.mark.parametrize("codec", ["raw", "webp", "jpeg:95"])
def test_a_store_gives_what_as_stored_says(tmp_path, codec):
    images = smooth(10)  # two whole blocks and a half
    store = store_of(tmp_path / "s.zarr", codec, images)
    assert str(store.image_codec) == codec and store.attributes["image_codec"] == codec
    assert np.array_equal(store.images[:], store.as_stored(images))
    assert np.array_equal(store.as_stored(images), images) == (codec != "jpeg:95")
    assert np.array_equal(store.images[[9, 2]], store.as_stored(images[[9, 2]]))
    size = sum(file.stat().st_size for file in (tmp_path / "s.zarr/images").glob("c.*"))
    assert size < 0.6 * 12 * 32 * 32 * 3 or codec == "raw"
    # Written again, the last block too, which is padded: the same bytes.
    before = tree_bytes(tmp_path / "s.zarr")
    for block in range(3):
        ids = np.array(store.block_ids(block))
        store.write_block(block, images=images[ids], class_ids=store.class_ids[ids])
    assert tree_bytes(tmp_path / "s.zarr") == before


@pytest.mark.parametrize("codec", ["webp", "jpeg:90"])
def test_a_damaged_chunk_of_a_store_is_an_error(tmp_path, codec):
    store = store_of(tmp_path / "s.zarr", codec, smooth(8))
    chunk = tmp_path / "s.zarr/images/c.1.0.0.0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(DamagedChunkError, match=r"c\.1\.0\.0\.0 is damaged"):
        store.images[5]
    assert store.images[:4].shape == (4, 32, 32, 3)
    # The checksum right and the images wrong: a chunk of another shape.
    import google_crc32c

    chunk.write_bytes(body := content[: len(content) // 2])
    body += google_crc32c.value(bytes(body)).to_bytes(4, "little")
    chunk.write_bytes(body)
    with pytest.raises(DamagedChunkError, match="offsets"):
        open_store(store.path).images[5]


def test_plain_zarr_reads_it_in_a_process_of_its_own(tmp_path):
    """Which does not import dmkd, where an installed copy of it is: entry points are read off its metadata."""
    images, site, root = smooth(6), tmp_path / "site", Path(__file__).resolve().parents[2]
    code = "import sys, numpy as np, zarr\n"
    for number, codec in enumerate(["webp", "jpeg:95"]):
        store = store_of(tmp_path / f"{number}.zarr", codec, images)
        np.save(tmp_path / f"{number}.npy", store.as_stored(images))
        code += f"expected = np.load('{number}.npy')\n"
        code += f"assert np.array_equal(zarr.open('{number}.zarr', mode='r')['images'][:], expected)\n"
    code += "assert 'dmkd.cli' not in sys.modules and 'torch' not in sys.modules"
    # fmt: off
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site),
                    str(root)], check=True, capture_output=True)
    # fmt: on
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    environment = {"PYTHONPATH": str(site), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def generate(path, generator, teacher, *more):
    # fmt: off
    return ["generate", "--store", path, "--generator", generator, "--teacher", teacher, "--images", 40, "--block-size", 16,
            "--steps", 2, "--sampler", "ddim", "--views", "rrc:2", "--device", "cpu", *more]
    # fmt: on


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory, tiny_generator, tiny_teacher):
    path = tmp_path_factory.mktemp("jpegs") / "s.zarr"
    done = dmkd(*generate(path, tiny_generator, tiny_teacher, "--image-codec", "jpeg:60"))
    assert done.exit_code == 0, done.output
    return path


def test_the_teacher_labels_the_pixels_that_a_reader_gets(jpegs, tmp_path, tiny_generator, tiny_teacher):
    import torch

    from dmkd.classifiers.load import load_classifier
    from dmkd.making.labelling import label_views
    from dmkd.views.description import ViewDescription

    store = open_store(jpegs)
    label_set, views = store.labels["tiny-resnet"], store.views["rrc2"]
    teacher = load_classifier(str(tiny_teacher))
    torch.set_num_threads(store.recipe["cpu_threads"])
    ids = np.array(store.block_ids(1))
    recomputed = label_views(teacher, torch.from_numpy(store.images[ids]), views[ids], ViewDescription.of(views))
    assert np.array_equal(recomputed.astype(np.float16), label_set.logits(ids))
    # Of the pixels as they were made they are not: the test could fail.
    raw = tmp_path / "raw.zarr"
    assert dmkd(*generate(raw, tiny_generator, tiny_teacher)).exit_code == 0
    assert not np.array_equal(open_store(raw).labels["tiny-resnet"].logits(ids), label_set.logits(ids))
    assert np.array_equal(store.as_stored(open_store(raw).images[:]), store.images[:])


def test_it_verifies_and_later_labels_agree(jpegs, tmp_path, tiny_teacher):
    jpegs = shutil.copytree(jpegs, tmp_path / "s.zarr")
    done = dmkd("verify", jpegs, "--rerun-teacher", 1, "--regenerate", 1, "--device", "cpu", "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and report["sound"], done.output
    assert report["regenerate"]["max_difference"] == 0
    assert report["rerun_teacher"]["tiny-resnet"]["max_logit_difference"] == 0
    done = dmkd("label", "--store", jpegs, "--teacher", tiny_teacher, "--name", "later", "--device", "cpu")
    assert done.exit_code == 0, done.output
    labels = open_store(jpegs).labels
    assert np.array_equal(labels["later"].logits(slice(None)), labels["tiny-resnet"].logits(slice(None)))


def test_the_codec_is_part_of_the_recipe(jpegs, tmp_path, tiny_generator, tiny_teacher):
    assert open_store(jpegs).recipe["image_codec"] == "jpeg:60"
    done = dmkd("generate", "--store", jpegs, "--image-codec", "jpeg:95", "--device", "cpu")
    assert done.exit_code == 2 and "image_codec: the store has jpeg:60, you asked for jpeg:95" in done.stderr
    assert dmkd("generate", "--store", jpegs, "--device", "cpu").exit_code == 0
    done = dmkd(*generate(tmp_path / "n.zarr", tiny_generator, tiny_teacher, "--image-codec", "jpg"))
    assert done.exit_code == 2 and "no image codec 'jpg'" in done.stderr and not (tmp_path / "n.zarr").exists()
    planned = dmkd("plan", "--like", jpegs, "--store", tmp_path / "n.zarr", "--json")
    facts = json.loads(planned.stdout)
    assert facts["recipe"]["image-codec"] == "jpeg:60" and facts["arrays"]["images"]["bytes_are"] == "about"


@pytest.mark.slow
def test_killed_and_started_again_the_store_is_the_same(jpegs, tmp_path, tiny_generator, tiny_teacher):
    path = tmp_path / "s.zarr"
    arguments = generate(path, tiny_generator, tiny_teacher, "--image-codec", "jpeg:60")
    command = [sys.executable, "-m", "dmkd.cli.main", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and len(list(path.rglob("c.*"))) < 6:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert open_store(path).missing_blocks()
    done = dmkd(*arguments)
    assert done.exit_code == 0, done.output
    assert tree_bytes(path) == tree_bytes(jpegs)


@pytest.mark.parametrize("codec", ["webp", "jpeg:85"])
def test_import_takes_it_too(tmp_path, codec):
    from PIL import Image

    images = smooth(6)
    for number, image in enumerate(images):
        folder = tmp_path / "source" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    arguments = ["import", tmp_path / "source", "--store", tmp_path / "s.zarr"]
    done = dmkd(*arguments, "--image-codec", codec)
    assert done.exit_code == 0, done.output
    store = open_store(tmp_path / "s.zarr")
    stored = {image.tobytes() for image in store.images[:]}
    assert stored == {image.tobytes() for image in store.as_stored(images)}
    assert dmkd(*arguments).exit_code == 0  # goes on with the store's codec
    other = dmkd(*arguments, "--image-codec", "raw")
    assert other.exit_code == 2 and f"image_codec: the store has {codec}, you asked for raw" in other.stderr


def test_zarr_refuses_the_codec_for_what_is_no_image(tmp_path):
    with pytest.raises(ValueError, match="writes uint8 images"):
        zarr.create_array(tmp_path / "a.zarr", shape=(4, 4), dtype="uint8", serializer=JpegCodec(95))
