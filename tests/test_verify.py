"""Verifying: real damage of every kind is found and named, and what --repair deletes comes back to the bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from conftest import block_arrays, filled_store, make_teacher, new_store, tree_bytes

from dmkd.cli.main import main
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.runtime.progress import Silent
from dmkd.stores import StoreError, UsageError, open_store
from dmkd.stores.verifying.verifier import Verifier
from dmkd.verify import verify

HERE = RunOptions(workers=0, device="cpu")


def make(path, generator, teacher, views="rrc:2", codec="float16", images=40):
    options = ImageOptions(generator=str(generator), images=images, sampler="ddim", steps=2, block_size=16)
    return generate(str(path), options, LabelOptions((str(teacher),), views, codec=codec), HERE, Silent())[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_generator, tiny_teacher):
    """Blocks 0, 1 and 2 of 16, 16 and 8 images; codec features: it has constants and two arrays."""
    path = tmp_path_factory.mktemp("finished") / "s.zarr"
    make(path, tiny_generator, tiny_teacher, "rrc:2+cutmix", "features")
    return path


@pytest.fixture
def path(finished, tmp_path):
    """A copy that may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "s.zarr"))


def check(path, **options):
    return verify(str(path), display=Silent(), **options)


def errors(report):
    return {finding.where: finding.sentence for finding in report.findings if finding.severity == "error"}


def sentences(report, severity):
    return " ".join(f"{f.where}: {f.sentence}" for f in report.findings if f.severity == severity)


def flip_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


LABELS = "labels/tiny-resnet"
CHUNKS = {
    "images": "images/c.1.0.0.0",
    "class_ids": "class_ids/c.1",
    "checks": "checks/c.1.0",
    "views/rrc2-cutmix": "views/rrc2-cutmix/c.1.0.0",
    f"{LABELS}/features": f"{LABELS}/features/c.1.0.0",
    f"{LABELS}/affine": f"{LABELS}/affine/c.1.0.0",
    f"{LABELS}/quality": f"{LABELS}/quality/c.1.0",
    f"{LABELS}/checks": f"{LABELS}/checks/c.1.0",
}


@pytest.mark.parametrize("codec", ["float16", "uint8", "features", "klt:0.01", "topk:4", "topk:10"])
@pytest.mark.parametrize("views", ["rrc:2+mixup"])
def test_a_store_in_any_codec_is_sound_and_its_teacher_says_the_same(
    codec, views, tiny_generator, tiny_teacher, tmp_path
):
    make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, views, codec)
    before = tree_bytes(tmp_path / "s.zarr")
    report = check(tmp_path / "s.zarr", rerun_teacher=0.01, device="cpu")
    assert report.sound and report.findings == [] and report.blocks == 3
    assert report.chunks == len(before), "every chunk was read"
    numbers = report.rerun_teacher["tiny-resnet"]
    assert numbers["max_logit_difference"] == 0 and numbers["top1_changed"] == 0 and len(numbers["blocks"]) == 1
    assert tree_bytes(tmp_path / "s.zarr") == before


def test_the_generator_makes_the_same_pixels(path):
    report = check(path, regenerate=1.0, rerun_teacher=0.5, device="cpu")
    assert report.findings == []
    assert report.regenerate["images"] == 40 and report.regenerate["max_difference"] == 0
    assert report.rerun_teacher["tiny-resnet"]["blocks"] != [] and report.rerun_teacher["tiny-resnet"]["views"] > 0


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
@pytest.mark.parametrize("node", CHUNKS)
def test_damaged_chunks_are_named_and_come_back_to_the_bit(node, damage, path):
    before = tree_bytes(path)
    chunk = path / CHUNKS[node]
    if damage == "flip":
        flip_byte(chunk)
    else:
        chunk.write_bytes(chunk.read_bytes()[:-10] if damage == "truncate" else b"")
    report = check(path)
    assert errors(report).keys() == {f"{node}, block 1"} and not report.sound
    assert "The chunk is damaged" in errors(report)[f"{node}, block 1"]
    assert chunk.is_file(), "nothing is deleted unless asked for"
    if damage != "flip":  # they are mended alike
        return
    report = check(path, mend=True)
    assert report.repair.refused == [] and not chunk.exists()
    left = tree_bytes(path)
    assert left.items() <= before.items(), "what is left is as it was"
    if node in ("images", "class_ids", "checks"):
        assert report.advice == f"dmkd generate --store {path}"
        gone = {CHUNKS["images"]} if node == "images" else {CHUNKS[name] for name in ("images", "class_ids", "checks")}
        assert before.keys() - left.keys() == gone, "sound labels stay"
        generate(str(path), ImageOptions(), LabelOptions(), HERE, Silent())
    else:
        assert report.advice == f"dmkd label --store {path}"
        assert CHUNKS["images"] in left
        assert open_store(path).labels["tiny-resnet"].missing_blocks() == [1]
        label(str(path), LabelOptions(), HERE, Silent())
    assert tree_bytes(path) == before
    assert check(path).sound


def test_damaged_constants_make_the_label_set_begin_anew(path):
    before = tree_bytes(path)
    flip_byte(path / LABELS / "constants/weight/c.0.0")
    report = check(path, mend=True)
    assert errors(report).keys() == {f"{LABELS}/constants/weight"}
    assert report.repair.refitted == ["tiny-resnet"] and report.advice.startswith("dmkd label")
    with pytest.raises(StoreError, match="has no labels yet"):
        open_store(path).labels["tiny-resnet"].logits([0])
    label(str(path), LabelOptions(), HERE, Silent())
    assert tree_bytes(path) == before


def view(component, value):
    names = ("top", "left", "height", "width", "flip", "partner", "mix_top", "mix_left", "mix_height", "mix_width")
    return "views/rrc2-cutmix", (20, 1, names.index(component)), value, "views/rrc2-cutmix"


@pytest.mark.parametrize(
    ("node", "index", "value", "where", "sentence"),
    [
        ("class_ids", 20, 99, "class_ids", "1 image (20) are out of range (the store has 10 classes)"),
        ("class_ids", 20, -1, "class_ids", "out of range"),
        (*view("top", -0.25), "crop boxes outside the image"),
        (*view("width", 1.5), "crop boxes outside the image"),
        (*view("height", 0), "crop boxes outside the image"),
        (*view("flip", 0.5), "a flip other than 0 and 1"),
        (*view("partner", 16), "a partner outside their block"),
        (*view("partner", 1.5), "a partner outside their block"),
        (*view("mix_left", 1.25), "a pasted rectangle outside the view"),
        (*view("left", np.nan), "NaN or infinite"),
        (f"{LABELS}/quality", (20, 0), 10, f"{LABELS}/quality", "a top-1 class out of range"),
        (f"{LABELS}/quality", (20, 1), 1.5, f"{LABELS}/quality", "a probability outside 0 to 1"),
        (f"{LABELS}/quality", (20, 2), 9, f"{LABELS}/quality", "an entropy that no softmax has"),
        (f"{LABELS}/quality", (20, 2), np.inf, f"{LABELS}/quality", "NaN or infinite"),
        (f"{LABELS}/affine", (20, 0, 0), np.nan, f"{LABELS}/affine", "NaN or infinite"),
        (f"{LABELS}/affine", (20, 0), [1e38, 3e38], LABELS, "decode to NaN or infinite logits"),
    ],
)
def test_wrong_values_with_a_right_checksum_are_found_and_come_back(node, index, value, where, sentence, path):
    before = tree_bytes(path)
    zarr.open(str(path), mode="r+")[node][index] = value
    assert tree_bytes(path) != before
    report = check(path, mend=True)
    assert errors(report).keys() == {f"{where}, block 1"}
    assert sentence in errors(report)[f"{where}, block 1"] and "1 image (20)" in errors(report)[f"{where}, block 1"]
    generate(str(path), ImageOptions(), LabelOptions(), HERE, Silent())
    assert tree_bytes(path) == before


def test_wrong_values_of_other_codecs_are_found(tiny_generator, tiny_teacher, tmp_path):
    make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, "rrc:2+mixup", "topk:4", images=16)
    group = zarr.open(str(tmp_path / "s.zarr"), mode="r+")
    before = group[f"{LABELS}/ids"][3, 0, 0]
    group[f"{LABELS}/ids"][3, 0, 0] = 10
    assert "can't be decoded" in errors(check(tmp_path / "s.zarr"))[f"{LABELS}, block 0"]
    group[f"{LABELS}/ids"][3, 0, 0] = before
    assert check(tmp_path / "s.zarr").sound
    group["views/rrc2-mixup"][3, 0, 6] = 1.25
    assert "a mixing weight outside 0 to 1" in errors(check(tmp_path / "s.zarr"))["views/rrc2-mixup, block 0"]


def test_nan_logits_are_found(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    zarr.open(str(tmp_path / "s.zarr"), mode="r+")["labels/teacher/logits"][50, 1, 3] = np.nan
    found = errors(check(store.path))["labels/teacher/logits, block 3"]
    assert found == "The values of 1 image (50) are NaN or infinite."


def test_what_is_missing_though_its_block_is_done_is_an_error(path):
    before = tree_bytes(path)
    for chunk in ("class_ids", "views/rrc2-cutmix", f"{LABELS}/quality"):
        (path / CHUNKS[chunk]).unlink()
    report = check(path, mend=True)
    assert errors(report).keys() == {
        f"{name}, block 1" for name in ("class_ids", "views/rrc2-cutmix", f"{LABELS}/quality")
    }
    generate(str(path), ImageOptions(), LabelOptions(), HERE, Silent())
    assert tree_bytes(path) == before


def test_damage_everywhere_comes_back_to_the_bit(path):
    before = tree_bytes(path)
    for name in before:
        flip_byte(path / name)
    report = check(path, mend=True)
    assert not report.sound and report.repair.refused == []
    generate(str(path), ImageOptions(), LabelOptions(), HERE, Silent())
    assert tree_bytes(path) == before


def test_unfinished_stores_are_sound_and_incomplete(path, tiny_generator, other_teacher, tmp_path):
    (path / CHUNKS["images"]).unlink()
    next((path / LABELS / "features").glob("c.2.*")).unlink()
    report = check(path, rerun_teacher=1.0, device="cpu")
    assert report.sound and not report.complete
    assert "images: 1 of 3 blocks have no images yet" in sentences(report, "note")
    assert "1 blocks with images have no labels yet" in sentences(report, "note")
    assert "1 blocks have labels and no images" in sentences(report, "note")
    assert report.rerun_teacher["tiny-resnet"]["blocks"] == [0]
    assert check(new_store(tmp_path / "empty.zarr").path, rerun_teacher=1.0, device="cpu").sound


def test_half_written_files_are_counted_and_swept(path):
    for name in ("images/c.1.0.0.0.0f3a.partial", "class_ids/c.0.77aa.partial"):
        (path / name).write_bytes(b"half")
    report = check(path)
    assert report.sound and "2 half-written files (.partial)" in sentences(report, "warning")
    assert check(path, mend=True).repair.swept == 2
    assert not list(path.rglob("*.partial")) and check(path).findings == []


def test_images_of_one_colour_and_twice_the_same_are_warnings(tmp_path):
    store = new_store(tmp_path / "s.zarr")
    for block in range(store.num_blocks):
        arrays = block_arrays(store, block)
        if block == 1:
            arrays["images"][2] = (9, 8, 7)
            arrays["images"][5] = arrays["images"][4]
        if block == 3:
            arrays["images"] = block_arrays(store, 2)["images"]
        store.write_block(block, **arrays)
    report = check(store.path)
    assert report.sound and report.counts["warning"] == 3
    assert "One colour all over: 1 image (18)" in sentences(report, "warning")
    assert "1 times the same image twice in a block: 20 and 21" in sentences(report, "warning")
    assert "Whole blocks with the same images: 2 and 3" in sentences(report, "warning")


def change_attributes(path, node, **changes):
    file = path / node / "zarr.json"
    description = json.loads(file.read_text())
    description["attributes"] |= changes
    file.write_text(json.dumps(description))


@pytest.mark.breaks_metadata
@pytest.mark.parametrize(
    ("node", "changes", "where"),
    [
        ("", {"recipe": {"seed": 5}}, "store"),
        ("", {"identity": "0" * 64}, "store"),
        ("views/rrc2-cutmix", {"seed": 5}, "views/rrc2-cutmix"),
        (LABELS, {"teacher": {"name": "another"}}, LABELS),
        (LABELS, {"view_set": "nothing"}, LABELS),
        (LABELS, {"codec": {"name": "zip"}}, LABELS),
        (LABELS, {"num_classes": 9}, LABELS),
    ],
)
def test_attributes_that_do_not_fit_are_errors_and_nothing_is_deleted(node, changes, where, path):
    before = tree_bytes(path)
    change_attributes(path, node, **changes)
    flip_byte(path / CHUNKS["images"])
    report = check(path, mend=True)
    assert {where, "images, block 1"} <= errors(report).keys()
    assert tree_bytes(path).keys() == before.keys(), "by other attributes something else would be made"
    assert "attributes or metadata are wrong" in report.repair.refused[0] and report.advice is None


@pytest.mark.parametrize("node", ["images", "class_ids", "views/rrc2-cutmix", LABELS, f"{LABELS}/features"])
def test_damaged_metadata_is_named(node, path):
    file = path / node / "zarr.json"
    file.write_text(file.read_text()[:-20])
    assert any(where.startswith(node) for where in errors(check(path)))


def test_an_array_of_another_shape_is_an_error(path):
    zarr.open(str(path), mode="r+").create_array(
        f"{LABELS}/features", shape=(40, 3, 5), chunks=(16, 3, 5), dtype="uint8", overwrite=True
    )
    assert "should be uint8 (n, 3, " in errors(check(path))[f"{LABELS}/features"]


def test_images_that_no_generator_made_are_never_deleted(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    for chunk in ("images/c.1.0.0.0", "class_ids/c.2"):
        flip_byte(tmp_path / "s.zarr" / chunk)
    before = tree_bytes(tmp_path / "s.zarr")
    report = check(store.path, mend=True)
    assert sum("can't make them again" in sentence for sentence in report.repair.refused) == 2
    left = tree_bytes(tmp_path / "s.zarr")
    assert {name: left[name] for name in left} == {name: before[name] for name in left}
    assert all(name in left for name in before if name.startswith(("images", "class_ids")))
    with pytest.raises(UsageError, match="were not made by a generator"):
        check(store.path, regenerate=0.1)


def test_a_chunk_that_can_be_read_the_second_time_is_not_deleted(path, monkeypatch):
    before = tree_bytes(path)
    flip_byte(path / CHUNKS["images"])
    real = Verifier.summary

    def summary(self):  # at the end of the first reading the disk gives the right bytes again
        (path / CHUNKS["images"]).write_bytes(before[CHUNKS["images"]])
        return real(self)

    monkeypatch.setattr(Verifier, "summary", summary)
    report = check(path, mend=True)
    assert report.repair.deleted == {} and "could be read the second time" in report.repair.refused[0]
    assert tree_bytes(path) == before


def test_labels_and_pixels_of_others_are_reported(path):
    store = open_store(path)
    for block in range(store.num_blocks):
        ids = np.array(store.block_ids(block))
        rng = np.random.default_rng(block)
        images = rng.integers(0, 256, (len(ids), *store.image_shape)).astype(np.uint8)
        width = store.labels["tiny-resnet"].encoded(ids)["features"].shape[-1]
        features = rng.normal(size=(len(ids), 3, width)).astype(np.float32) * 100
        labels = {"tiny-resnet": (features, store.labels["tiny-resnet"].quality[ids])}
        store.write_block(block, images=images, class_ids=store.class_ids[ids], labels=labels)
    assert check(path).sound
    before = tree_bytes(path)
    report = check(path, rerun_teacher=1.0, regenerate=1.0, device="cpu", mend=True)
    assert "The teacher says something else" in errors(report)[LABELS]
    assert "The generator makes other images" in errors(report)["images"]
    assert "grey levels" in errors(report)["images"] and not report.repaired
    assert report.rerun_teacher["tiny-resnet"]["max_logit_difference"] > 0
    assert tree_bytes(path) == before, "models that disagree delete nothing"


def test_a_teacher_or_generator_whose_weights_have_changed_is_reported(tiny_generator, tmp_path):
    shutil.copytree(tiny_generator, tmp_path / "generator")
    make_teacher(tmp_path / "teacher")
    store = make(tmp_path / "s.zarr", tmp_path / "generator", tmp_path / "teacher", images=16)
    make_teacher(tmp_path / "teacher", seed=9)
    flip_byte(tmp_path / "generator/vae/diffusion_pytorch_model.safetensors")
    report = check(store.path, rerun_teacher=0.01, regenerate=0.01, device="cpu")
    assert (
        "weights of teacher" in errors(report)["labels/teacher"] and "have changed" in errors(report)["labels/teacher"]
    )
    assert "weights of generator" in errors(report)["images"]


def test_growing_that_was_interrupted_is_a_note(path, monkeypatch):
    from dmkd.stores.trees.zarr_tree import ZarrTree

    real = ZarrTree.resize

    def resize(self, node, num_rows):
        if node == "class_ids":
            raise KeyboardInterrupt
        real(self, node, num_rows)

    monkeypatch.setattr(ZarrTree, "resize", resize)
    with pytest.raises(KeyboardInterrupt):
        open_store(path).grow(56)
    monkeypatch.undo()
    report = check(path)
    assert (
        report.sound
        and not report.complete
        and "growing it was interrupted; run `dmkd generate --images 56`" in sentences(report, "note")
    )


def test_chunks_beyond_the_last_block_are_errors_and_go(path):
    shutil.copy(path / CHUNKS["images"], path / "images/c.3.0.0.0")
    report = check(path, mend=True)
    assert errors(report) == {"images, block 3": "The chunk lies beyond the store's last block."}
    assert not (path / "images/c.3.0.0.0").exists() and check(path).findings == []
    assert report.advice is None


# The command


def dmkd(*arguments):
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def test_exit_codes_and_json(path):
    done = dmkd(path, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["sound"] is facts["complete"] is True and facts["errors"] == facts["warnings"] == facts["notes"] == 0
    assert facts["findings"] == [] and facts["rerun_teacher"] is None and facts["regenerate"] is None
    done = dmkd("--store", path)
    assert done.exit_code == 0 and "sound and complete" in done.stdout and "0 errors" in done.stdout
    assert "3 blocks" in done.stdout and "verify: 3/3 blocks" in done.stderr
    flip_byte(path / CHUNKS["images"])
    done = dmkd(path, "--json", "--regenerate", "0.5", "--rerun-teacher", "0.5", "--device", "cpu")
    facts = json.loads(done.stdout)
    assert done.exit_code == 1 and facts["sound"] is False and facts["errors"] == 1
    assert facts["findings"][0]["where"] == "images, block 1" and facts["findings"][0]["severity"] == "error"
    assert 1 not in facts["regenerate"]["blocks"] and 1 not in facts["rerun_teacher"]["tiny-resnet"]["blocks"]
    done = dmkd(path)
    assert done.exit_code == 1 and "DAMAGED" in done.stdout and "images, block 1: The chunk is damaged" in done.stdout
    assert "--repair" in done.stdout
    done = dmkd(path, "--repair")
    assert done.exit_code == 0 and f"Now run `dmkd generate --store {path}`" in done.stdout
    assert dmkd(path).exit_code == 1, "what was deleted is missing"


@pytest.mark.parametrize("node", [CHUNKS["images"], CHUNKS[f"{LABELS}/features"]])
def test_half_a_store_is_not_passed_as_a_whole_one(path, node):
    (path / node).unlink()
    done = dmkd(path)
    assert done.exit_code == 1 and "DAMAGED" not in done.stdout
    done = dmkd(path, "--json")
    facts = json.loads(done.stdout)
    assert done.exit_code == 1 and (facts["sound"], facts["complete"]) == (True, False)
    done = dmkd(path, "--allow-incomplete")
    assert done.exit_code == 0 and "sound, but INCOMPLETE" in done.stdout
    flip_byte(path / CHUNKS["class_ids"])
    assert dmkd(path, "--allow-incomplete").exit_code == 1, "damage is never allowed"


def test_the_exit_code_of_a_repair_says_whether_errors_are_left(path, tmp_path):
    flip_byte(path / CHUNKS["images"])
    done = dmkd(path, "--repair", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["repaired"] is True
    imported = filled_store(tmp_path / "imported.zarr")
    flip_byte(tmp_path / "imported.zarr" / "checks/c.1.0")
    done = dmkd(imported.path, "--repair", "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["repaired"] is False
    change_attributes(path, "", identity="0" * 64)
    assert dmkd(path, "--repair").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing.zarr"], "There is no store at nothing.zarr"),
        (["--rerun-teacher", "0"], "--rerun-teacher takes a share"),
        (["--regenerate", "1.5"], "--regenerate takes a share"),
        (["--rerun-teacher", "1", "--device", "tpu"], "is not a device"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(arguments, sentence, path):
    done = dmkd(*(arguments if "nothing.zarr" in arguments else [path, *arguments]))
    assert done.exit_code == 2 and sentence in done.stderr


def test_reading_a_store_needs_no_torch(path):
    code = (
        f"import sys; from dmkd.cli.main import main\ntry: main(['verify', {str(path)!r}])\nexcept SystemExit: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr
