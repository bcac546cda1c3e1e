"""dmkd export: other tools read what a store holds, and dmkd import brings it back."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import CLASS_NAMES, TEACHER, block_arrays, filled_store, new_store
from PIL import Image

from dmkd.cli.main import main
from dmkd.export import ExportOptions, default_shard_images, export_store
from dmkd.formats.imagefolder import class_folders
from dmkd.formats.parquet import ROW_GROUP_BYTES, _groups, distinct
from dmkd.import_images import ImportOptions, import_images
from dmkd.runtime.progress import Silent
from dmkd.runtime.whole_files import whole_file
from dmkd.stores import DmkdError, MismatchError, UsageError, create_store, open_store, parse_codec

FORMATS = ("imagefolder", "webdataset", "parquet")


class Notices(Silent):
    def __init__(self):
        self.texts = []

    def notice(self, text):
        self.texts.append(text)


def export(store, folder, format="imagefolder", display=None, **options):
    return export_store(store, str(folder), ExportOptions(format, **options), display or Silent())


def files(folder):
    """Every file below a folder by name -> its bytes."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def contents(store):
    """What the images of a store are, whatever their order: {(class name, pixels)}."""
    names = store.class_names
    return {(names[c], image.tobytes()) for c, image in zip(store.class_ids[:], store.images[:], strict=True)}


def columns(folder, name="train-000000.parquet"):
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(folder / name)


def two_labels(path):
    """A store with a second label set, of another codec, whose name has a dot."""
    store = filled_store(path, num_images=40)
    store.add_label_set(
        "r.v1", teacher=TEACHER, source="t", view_set="views", codec=parse_codec("uint8"), num_classes=10
    )
    for block in range(store.num_blocks):
        logits, quality = block_arrays(store, block, seed=block + 100)["labels"]["teacher"]
        store.write_block(block, labels={"r.v1": (logits, quality)})
    return store


# Round trips


@pytest.mark.parametrize("format", ["imagefolder", "webdataset"])
def test_what_is_exported_as_png_can_be_imported_and_is_the_same_to_the_bit(tmp_path, format):
    store = filled_store(tmp_path / "s.zarr", num_images=50)
    export(store, tmp_path / "out", format, shard_images=20 if format == "webdataset" else None)
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    names = ImportOptions(class_names=str(tmp_path / "names.txt"))
    back = import_images(str(tmp_path / "t.zarr"), str(tmp_path / "out"), names, Silent())
    assert back.num_images == 50 and contents(back) == contents(store) and back.class_names == store.class_names


def test_an_image_folder_of_named_classes_keeps_its_folders_and_needs_no_list_of_names(tmp_path):
    store = create_store(
        str(tmp_path / "s.zarr"),
        recipe={},
        num_images=12,
        image_shape=(8, 8, 3),
        class_names=["ant", "bee", "wasp"],
        block_size=4,
    )
    for block in range(3):
        arrays = block_arrays(filled_store(tmp_path / f"x{block}.zarr", num_images=4, block_size=4), 0, seed=block)
        store.write_block(block, images=arrays["images"], class_ids=np.array([0, 1, 2, 0], np.int32))
    export(store, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()} == {"ant", "bee", "wasp"}
    back = import_images(str(tmp_path / "t.zarr"), str(tmp_path / "out"), ImportOptions(), Silent())
    assert contents(back) == contents(store) and back.class_names == ["ant", "bee", "wasp"]
    assert "They are 12 existing image files" in back.card["readme"]


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["ant", "bee"], ["ant", "bee"]),
        (["tench, Tinca tinca", "z"], ["tench, Tinca tinca", "z"]),
        (["bee", "ant"], ["0000", "0001"]),  # in another order they would be numbered otherwise
        (["ant", "ant"], ["0000", "0001"]),
        (["A", "a"], ["0000", "0001"]),  # one folder on a Mac
        (["a/b", "c"], ["0000", "0001"]),
        (["..", "c"], ["0000", "0001"]),
        (["a.", "c"], ["0000", "0001"]),
    ],
)
def test_class_folders_sort_in_class_order_and_are_plain_file_names(names, folders):
    assert class_folders(names) == folders
    assert sorted(folders) == folders


def test_folders_of_many_classes_are_numbered_with_enough_digits():
    folders = class_folders([f"class {n}" for n in range(12_000)])
    assert sorted(folders) == folders and folders[-1] == "11999"


# What other tools read


def test_torchvision_reads_an_image_folder(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    store = filled_store(tmp_path / "s.zarr")
    export(store, tmp_path / "out")
    found = datasets.ImageFolder(str(tmp_path / "out"))
    assert len(found) == 100 and found.classes == CLASS_NAMES
    for (path, class_id), (image, _) in zip(found.samples, found, strict=True):
        image_id = int(path.rsplit("/", 1)[1].removesuffix(".png"))
        assert store.class_ids[image_id] == class_id
        assert (np.asarray(image) == store.images[image_id]).all()


def test_timm_reads_an_image_folder_with_absent_classes_by_its_class_map(tmp_path):
    pytest.importorskip("timm")
    from timm.data import create_dataset

    store, display = filled_store(tmp_path / "s.zarr"), Notices()
    export(store, tmp_path / "out", images=5, display=display)
    assert any("classes have no images here" in text for text in display.texts)
    found = create_dataset("", str(tmp_path / "out"), class_map=str(tmp_path / "out/class_map.txt"))
    read = {(class_id, np.asarray(image).tobytes()) for image, class_id in found}
    assert read == {(int(store.class_ids[i]), store.images[i].tobytes()) for i in range(5)}


@pytest.mark.parametrize("views", ["first", "all"])
def test_webdataset_decodes_every_member(tmp_path, views):
    webdataset = pytest.importorskip("webdataset")
    store = two_labels(tmp_path / "s.zarr")
    export(store, tmp_path / "out", "webdataset", shard_images=16, views=views)
    shards = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    assert [path.rsplit("/", 1)[1] for path in shards] == [f"shard-{n:06d}.tar" for n in range(3)]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [int(sample["__key__"]) for sample in samples] == list(range(40))
    seen = 0 if views == "first" else slice(None)
    for i, sample in enumerate(samples):
        assert (sample["png"] == store.images[i]).all()
        assert sample["cls"] == store.class_ids[i] == sample["json"]["class_id"] and sample["json"]["id"] == i
        assert sample["json"]["class_name"] == store.class_names[sample["cls"]]
        for name in ("teacher", "r.v1"):
            logits = sample[f"{name}.logits.npy"]
            assert logits.dtype == np.float16
            assert (logits == store.labels[name].logits(i)[seen].astype(np.float16)).all()
            quality = store.labels[name].quality[i]
            assert list(sample["json"]["quality"][name].values()) == quality.tolist()
        assert (sample["views.views.npy"] == store.views["views"][i][seen]).all()


@pytest.mark.parametrize("views", ["first", "all"])
def test_hugging_face_datasets_reads_parquet_with_its_types(tmp_path, views, monkeypatch):
    datasets = pytest.importorskip("datasets")
    store = two_labels(tmp_path / "s.zarr")
    export(store, tmp_path / "out", "parquet", shard_images=16, views=views)
    files = str(tmp_path / "out/*.parquet")
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == 40 and found["id"][:] == list(range(40))
    assert isinstance(found.features["image"], datasets.Image)
    assert found.features["label"].names == CLASS_NAMES
    seen = 0 if views == "first" else slice(None)
    for i, row in enumerate(found):
        assert (np.asarray(row["image"]) == store.images[i]).all() and row["label"] == store.class_ids[i]
        for name in ("teacher", "r.v1"):
            logits = np.array(row[f"{name}_logits"], np.float16)
            assert (logits == store.labels[name].logits(i)[seen].astype(np.float16)).all()
            told = [row[f"{name}_{part}"] for part in ("top1", "p_class", "entropy")]
            assert (np.array(told, np.float32) == store.labels[name].quality[i]).all()
        assert (np.array(row["views_views"], np.float32) == store.views["views"][i][seen]).all()


@pytest.mark.parametrize("format", ["imagefolder", "parquet"])
def test_an_exported_folder_is_a_data_set_of_the_hub_by_its_card(tmp_path, format):
    datasets = pytest.importorskip("datasets")
    store = filled_store(tmp_path / "s.zarr", num_images=64)
    export(store, tmp_path / "out", format)
    found = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    held = {(row["label"], np.asarray(row["image"]).tobytes()) for row in found}
    assert held == {(int(store.class_ids[i]), store.images[i].tobytes()) for i in range(64)}


def test_parquet_without_datasets_is_plain_columns(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=16)
    export(store, tmp_path / "out", "parquet", dtype="float32", labels="teacher")
    table = columns(tmp_path / "out")
    assert table.column_names[:4] == ["id", "image", "label", "teacher_logits"]
    assert str(table.schema.field("teacher_logits").type).startswith("list<")
    logits = np.array(table["teacher_logits"].to_pylist(), np.float32)
    assert (logits == store.labels["teacher"].logits(range(16))[:, 0]).all()
    first = table["image"][0].as_py()
    assert first["path"] == "00000000.png"
    assert (np.asarray(Image.open(io.BytesIO(first["bytes"]))) == store.images[0]).all()


def test_row_groups_are_joined_and_cut_to_100_megabytes():
    pa = pytest.importorskip("pyarrow")
    small = pa.table({"x": [b"a" * 30_000_000]})
    large = pa.table({"x": [b"a" * 60_000_000] * 3})
    groups = list(_groups(iter([small, small, small, small, large])))
    assert [group.num_rows for group in groups] == [3, 1, 1, 1, 1] or [g.num_rows for g in groups] == [3, 2, 1, 1]
    assert all(group.nbytes <= ROW_GROUP_BYTES for group in groups)
    assert sum(group.num_rows for group in groups) == 7


def test_classes_of_one_name_are_told_apart_in_a_class_label():
    assert distinct(["crane", "maillot", "crane"]) == ["crane (0)", "maillot", "crane (2)"]


def test_jpeg_is_close_and_smaller_and_without_halved_colours(tmp_path):
    store = new_store(tmp_path / "s.zarr", num_images=16, image_shape=(32, 32, 3))
    ramp = np.linspace(0, 255, 32)[None, :, None]
    smooth = np.broadcast_to(ramp, (16, 32, 32, 3)) * np.array([1, 0.5, 0.2])
    arrays = block_arrays(store, 0)
    store.write_block(0, **{**arrays, "images": smooth.astype(np.uint8)})
    export(store, tmp_path / "out", jpeg=95)
    names = sorted((tmp_path / "out").rglob("*.jpg"))
    assert len(names) == 16
    with Image.open(names[0]) as image:
        assert image.format == "JPEG" and np.abs(np.asarray(image).astype(int) - store.images[0]).max() <= 6


# Choosing


def test_select_and_images_choose(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    quality = store.labels["teacher"].quality[:]
    wanted = {i for i in range(60) if quality[i, 1] > 0.5}
    for format in FORMATS:
        done = export(store, tmp_path / format, format, images=60, select="p_class > 0.5", shard_images=None)
        assert done.images == len(wanted)
    found = {int(path.stem) for path in (tmp_path / "imagefolder").rglob("*.png")}
    with tarfile.open(tmp_path / "webdataset/shard-000000.tar") as tar:
        in_tar = {int(name.split(".")[0]) for name in tar.getnames()}
    assert found == wanted == in_tar == set(columns(tmp_path / "parquet")["id"].to_pylist())


def test_labels_are_chosen_by_name_or_left_out(tmp_path):
    store = two_labels(tmp_path / "s.zarr")
    export(store, tmp_path / "one", "parquet", labels="r.v1")
    names = columns(tmp_path / "one").column_names
    assert "r.v1_logits" in names and "teacher_logits" not in names
    export(store, tmp_path / "none", "parquet", labels="none")
    assert columns(tmp_path / "none").column_names == ["id", "image", "label"]


# Stopping, going on, growing


def test_columns_are_written_beside_their_images(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=50)
    scores = np.random.default_rng(0).normal(size=50)
    store.add_column("clip_score", scores)
    store.add_column("place", np.arange(50.0))
    export(store, tmp_path / "rows", "parquet")
    table = columns(tmp_path / "rows").to_pydict()
    assert table["column_clip_score"] == scores.tolist() and table["column_place"] == list(range(50))
    export(store, tmp_path / "tars", "webdataset", columns="place", select="place >= 48")
    with tarfile.open(tmp_path / "tars/shard-000000.tar") as tar:
        facts = [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]
    assert [one["columns"] for one in facts] == [{"place": 48.0}, {"place": 49.0}]
    export(store, tmp_path / "none", "parquet", columns="none")
    assert not [name for name in columns(tmp_path / "none").column_names if name.startswith("column_")]
    store.add_column("place", -np.arange(50.0), replace=True)
    with pytest.raises(MismatchError, match="columns"):
        export(store, tmp_path / "rows", "parquet")
    with pytest.raises(UsageError, match="has no column 'beauty'; it has clip_score, place"):
        export(store, tmp_path / "more", "parquet", columns="place,beauty")
    with pytest.raises(UsageError, match="image folder holds no columns"):
        export(store, tmp_path / "more", columns="place")


def test_images_that_a_column_has_no_number_for_yet_are_added_later(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=48)
    store.add_column("score", np.arange(48.0))
    export(store, tmp_path / "out", "parquet", shard_images=16)
    store.grow(64)
    store.write_block(3, **block_arrays(store, 3))
    display = Notices()
    again = export(store, tmp_path / "out", "parquet", display, shard_images=16)
    assert (again.images, again.written, again.missing) == (48, 0, 16) and "no numbers in score" in display.texts[0]
    assert export(store, tmp_path / "fresh", "parquet", columns="none", shard_images=16).images == 64


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_run_writes_nothing_and_puts_back_what_is_gone(tmp_path, format):
    store = filled_store(tmp_path / "s.zarr")
    first = export(store, tmp_path / "out", format, **({} if format == "imagefolder" else {"shard_images": 32}))
    again = dict({} if format == "imagefolder" else {"shard_images": 32})
    before = files(tmp_path / "out")
    assert first.written == 100 and export(store, tmp_path / "out", format, **again).written == 0
    gone = next(f for f in (tmp_path / "out").rglob("*") if f.suffix in (".png", ".tar", ".parquet"))
    gone.unlink()
    (gone.parent / f".{gone.name}.partial").write_bytes(b"half")
    assert 0 < export(store, tmp_path / "out", format, **again).written <= 32
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("format", FORMATS)
def test_an_unfinished_store_is_exported_as_far_as_it_goes_and_later_completed(tmp_path, format):
    store, display = new_store(tmp_path / "s.zarr"), Notices()
    for block in (0, 1, 3):
        store.write_block(block, **block_arrays(store, block))
    arrays = block_arrays(store, 2)
    store.write_block(2, **{**arrays, "labels": {}})  # images without labels
    done = export(store, tmp_path / "out", format, display)
    there = 64 if format == "imagefolder" else 48
    assert (done.images, done.missing) == (there, 100 - there)
    assert any(f"{100 - there} images" in text and "left out" in text for text in display.texts)
    for block in range(store.num_blocks):
        store.write_block(block, **block_arrays(store, block))
    assert export(store, tmp_path / "out", format).images == 100
    whole = tmp_path / "whole"
    export(store, whole, format)
    assert files(tmp_path / "out") == files(whole)


def test_a_store_that_grows_adds_to_its_export(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=64)
    export(store, tmp_path / "out", "webdataset", shard_images=32)
    before = files(tmp_path / "out")
    store.grow(100)
    for block in range(4, 7):
        store.write_block(block, **block_arrays(store, block))
    assert export(store, tmp_path / "out", "webdataset", shard_images=32).written == 36
    after = files(tmp_path / "out")
    assert all(after[name] == before[name] for name in before if name.endswith(".tar")) and "shard-000003.tar" in after
    with pytest.raises(UsageError, match="was begun for 100 images, but 64"):
        export(store, tmp_path / "out", "webdataset", shard_images=32, images=64)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_was_killed_goes_on_and_ends_as_one_that_was_not(tmp_path, number):
    store = filled_store(tmp_path / "s.zarr", num_images=240, block_size=4, image_shape=(64, 64, 3))
    command = [sys.executable, "-m", "dmkd.cli.main", "export", store.path, "--to", str(tmp_path / "out")]
    command += ["--format", "webdataset", "--shard-images", "8", "--workers", "1"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TERM": "dumb"},
        # A shell's background jobs ignore SIGINT, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("*.tar"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    cut = len(list((tmp_path / "out").glob("*.tar")))
    assert 3 <= cut < 30, "stopped in the middle"
    if number == signal.SIGINT:
        assert process.returncode == 130 and "rerun the same command to resume" in told and "Traceback" not in told
        assert not list((tmp_path / "out").glob(".*")), "nothing half-written is left"
    export(store, tmp_path / "out", "webdataset", shard_images=8)
    export(store, tmp_path / "whole", "webdataset", shard_images=8)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_failing_disk_is_told_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "s.zarr")
    real, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) > 20:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DmkdError, match="Could not write .* the disk is full"):
        export(store, tmp_path / "out", workers=2)
    monkeypatch.undo()
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert export(store, tmp_path / "out").written == 100 - 19  # export.json was the first of the 20


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with suppress(ZeroDivisionError), whole_file(tmp_path / "x") as partial:
        partial.write_bytes(b"half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


# Refusals


def test_an_export_of_something_else_is_never_continued(tmp_path):
    store = two_labels(tmp_path / "s.zarr")
    export(store, tmp_path / "out", "webdataset")
    for options in ({"jpeg": 90}, {"views": "all"}, {"dtype": "float32"}, {"shard_images": 7}, {"labels": "r.v1"}):
        with pytest.raises(MismatchError, match="Give another folder with --to"):
            export(store, tmp_path / "out", "webdataset", **options)
    with pytest.raises(MismatchError, match="format: the store has webdataset"):
        export(store, tmp_path / "out", "parquet")
    other = filled_store(tmp_path / "o.zarr", recipe={"generator": "another"})
    with pytest.raises(MismatchError, match="store"):
        export(other, tmp_path / "out", "webdataset")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"jpeg": 0}, "--jpeg is a quality from 1 to 100"),
        ({"images": 0}, "--images must be at least 1"),
        ({"images": 101}, "has 100 images, so --images can't be 101"),
        ({"workers": 0}, "--workers must be at least 1"),
        ({"shard_images": 5}, "an image folder has no shards"),
        ({"select": "entropy <"}, "can't be read"),
        ({"select": "p_class > 2"}, "leaves none of the 100 images"),
        ({"select": "agree", "labels": "none"}, "needs a teacher's opinion"),
        ({"labels": "nobody", "select": "agree"}, "no label set 'nobody'; it has teacher"),
        ({"labels": "teacher"}, "An image folder holds no logits"),
        ({"views": "all"}, "An image folder holds no logits"),
        ({"labels": "nobody", "format": "parquet"}, "no label set 'nobody'; it has teacher"),
        ({"format": "zip"}, "--format must be imagefolder or webdataset or parquet, not 'zip'"),
    ],
)
def test_wrong_options_are_told_and_nothing_is_written(tmp_path, options, sentence):
    store = filled_store(tmp_path / "s.zarr")
    with pytest.raises(UsageError, match=sentence.replace("(", r"\(")):
        export(store, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_select_among_several_teachers_must_name_one(tmp_path):
    store = two_labels(tmp_path / "s.zarr")
    with pytest.raises(UsageError, match="uses one teacher's opinion"):
        export(store, tmp_path / "out", select="p_class > 0.5")
    assert export(store, tmp_path / "out", select="p_class > 0.5", labels="r.v1").images > 0


def test_only_a_folder_of_its_own_is_written_to(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=16)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for folder, sentence in (
        (tmp_path / "mine", "is not empty and holds no export"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "s.zarr/out", "is inside a store"),
        (tmp_path / "s.zarr", "is inside a store"),
        ("s3://bucket/out", "must be a local folder"),
    ):
        with pytest.raises(UsageError, match=sentence):
            export(store, folder)
    export(store, tmp_path / "out")
    (tmp_path / "out/export.json").write_text("{}")
    with pytest.raises(UsageError, match=r"export\.json is damaged or was not written by dmkd export"):
        export(store, tmp_path / "out")


def test_logits_beyond_float16_are_refused(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=16)
    store.add_label_set(
        "big", teacher=TEACHER, source="t", view_set="views", codec=parse_codec("uint8"), num_classes=10
    )
    logits, quality = block_arrays(store, 0)["labels"]["teacher"]
    store.write_block(0, labels={"big": (logits * 1e6, quality)})
    with pytest.raises(UsageError, match="--dtype float32"):
        export(store, tmp_path / "out", "parquet", labels="big")
    assert export(store, tmp_path / "other", "parquet", labels="big", dtype="float32").written == 16


def test_a_store_with_nothing_yet_has_nothing_to_export(tmp_path):
    with pytest.raises(UsageError, match="no finished block"):
        export(new_store(tmp_path / "s.zarr"), tmp_path / "out")


def test_a_shard_is_whole_blocks(tmp_path):
    small, large = new_store(tmp_path / "s.zarr"), new_store(tmp_path / "l.zarr", 64, 64, image_shape=(256, 256, 3))
    assert default_shard_images(small) == 8192 and default_shard_images(large) == 21 * 64


def test_the_command_tells_what_it_did(tmp_path, place):
    filled_store(place.path, num_images=20)
    out = str(tmp_path / "out")
    done = CliRunner().invoke(main, ["export", place.path, "--to", out, "--format", "imagefolder"])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}: 20 images as imagefolder, 20 of them written now.\n"
    done = CliRunner().invoke(main, ["export", place.path, "--to", out, "--format", "imagefolder", "--json"])
    facts = json.loads(done.stdout)
    assert facts == {"folder": out, "format": "imagefolder", "images": 20, "written": 0, "missing": 0}
    assert open_store(place.path).num_images == 20
