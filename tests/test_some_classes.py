"""Stores of some of a generator's classes: numbered from 0, labelled by teachers of more, measured on folders of more."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import make_teacher, tree_bytes
from PIL import Image

from dmkd.classifiers.load import load_classifier
from dmkd.cli.main import main
from dmkd.compare import teacher_predictions
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.making.recipe_file import recipe_of
from dmkd.recipes.class_list import ClassList, imagenet_classes
from dmkd.recipes.recipe import Recipe
from dmkd.runtime.progress import Silent
from dmkd.stores import MismatchError, UsageError, open_store
from dmkd.training.execution import Execution
from dmkd.verify import verify
from dmkd.views.description import ViewDescription
from dmkd.views.render import render_block

HERE = RunOptions(workers=0, device="cpu")
CHOSEN = [2, 3, 5, 8]  # of the generator's ten
NAMES = ["name 2", "name 3, synonym 3", "name 5", "name 8"]
WNIDS = [f"n{number:08}" for number in range(10)]


def make(path, generator, teachers=("none",), **options):
    options = {
        "images": 40,
        "steps": 2,
        "sampler": "ddim",
        "block_size": 16,
        "classes": "2,name 3,5,synonym 8",
        **options,
    }
    options["classes"] = options["classes"] and options["classes"].replace("synonym 8", "8")
    labels = LabelOptions(tuple(map(str, teachers)), views="rrc:2", codec=options.pop("codec", None))
    return generate(str(path), ImageOptions(generator=str(generator), **options), labels, HERE, Silent())[0]


def teacher_of(folder: Path, names) -> Path:
    """The tiny teacher of ten classes under other names."""
    make_teacher(folder, num_classes=len(names))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "label_names": list(names)}))
    return folder


@pytest.fixture(scope="module")
def knows_all(tmp_path_factory) -> Path:
    """Knows the generator's ten classes by name, in an order of its own, and two more."""
    order = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    return teacher_of(tmp_path_factory.mktemp("t") / "all", ["ant", *(f"Name {i}" for i in order), "bee"])


@pytest.fixture(scope="module")
def some(tmp_path_factory, tiny_generator, knows_all):
    """A store of four of ten classes, labelled by a teacher of twelve."""
    return make(tmp_path_factory.mktemp("some") / "s.zarr", tiny_generator, [knows_all])


@pytest.fixture
def old(tmp_path, tiny_generator, monkeypatch):
    """A store of four of ten classes as they were before: they keep the generator's numbers."""
    with monkeypatch.context() as patch:
        patch.setattr(ClassList, "subset", lambda whole, ids: replace(whole, chosen_from=(ids, len(whole))))
        patch.setattr("dmkd.making.resolve.Recipe", lambda **fields: Recipe(**{**fields, "compact_classes": False}))
        return make(tmp_path / "old.zarr", tiny_generator, images=24)


def test_the_store_numbers_its_classes_from_zero_and_pixels_are_what_they_were(some, old):
    assert some.class_names == NAMES and some.num_classes == 4
    assert (some.recipe["classes"], some.recipe["num_classes"], some.recipe["compact_classes"]) == (CHOSEN, 10, True)
    assert old.num_classes == 10 and "compact_classes" not in old.recipe
    ids = np.arange(24)
    np.testing.assert_array_equal(np.array(CHOSEN)[some.class_ids[ids]], old.class_ids[ids])
    np.testing.assert_array_equal(some.images[ids], old.images[ids])


def test_a_store_of_before_goes_on_as_it_was_begun(old, tiny_generator):
    recipe, identity = old.recipe, old.identity
    store = make(old.path, tiny_generator, images=40)
    assert (store.recipe, store.identity, store.num_classes) == (recipe, identity, 10)
    assert set(store.class_ids[:].tolist()) == set(CHOSEN) and not store.missing_blocks()
    assert verify(old.path, regenerate=1.0, device="cpu", display=Silent()).sound


@pytest.mark.parametrize("codec", ["float16", "features", "klt:0.1", "uint8", "topk:2"])
def test_a_teacher_of_more_classes_labels_them_by_its_outputs_of_these_names(
    tiny_generator, knows_all, tmp_path, codec
):
    store = make(tmp_path / "s.zarr", tiny_generator, [knows_all], codec=codec)
    (labels,) = store.labels.values()
    columns = [10 - number for number in CHOSEN]
    assert (labels.num_classes, labels.outputs) == (4, columns)
    teacher = load_classifier(str(knows_all))
    ids, views = np.arange(16), ViewDescription.of(store.views["rrc2"])
    pixels = render_block(
        torch.from_numpy(store.images[ids]),
        views.draw(ids),
        components=views.components,
        size=32,
        interpolation=views.interpolation,
    )
    expected = teacher.logits(pixels.flatten(0, 1)).reshape(16, 3, 12)[:, :, columns].numpy()
    expected -= expected.mean(-1, keepdims=True)
    logits = labels.logits(ids)
    assert np.abs(logits - logits.mean(-1, keepdims=True) - expected).max() < (0.1 if codec != "topk:2" else 0.3)
    top1, _, entropy = labels.quality[ids].T
    assert set(top1.tolist()) <= {0, 1, 2, 3} and entropy.max() <= np.log(4) + 1e-5
    np.testing.assert_array_equal(top1, expected[:, 0].argmax(-1))
    report = verify(store.path, rerun_teacher=1.0, regenerate=1.0, device="cpu", display=Silent())
    assert report.sound and report.complete and not report.findings


def test_interrupted_and_grown_it_is_the_same_store(some, tiny_generator, knows_all, tmp_path):
    path = tmp_path / "s.zarr"
    make(path, tiny_generator, [knows_all], images=20)
    for chunk in (path / "images").glob("c.0*"):
        chunk.unlink()
    generate(str(path), ImageOptions(images=40), LabelOptions(), HERE, Silent())
    assert tree_bytes(path) == tree_bytes(Path(some.path)) and open_store(path).identity == some.identity
    make(path, tiny_generator, [knows_all])  # the same command again
    with pytest.raises(MismatchError, match=r"classes: the store has \[2, 3, 5, 8\], you asked for \[2, 3\]"):
        make(path, tiny_generator, [knows_all], classes="2-3")
    again = make(tmp_path / "n.zarr", tiny_generator, [knows_all], classes=recipe_of(some)["classes"])
    assert again.identity == some.identity


def test_teachers_that_fit_and_teachers_that_do_not(some, tmp_path):
    path = tmp_path / "s.zarr"
    shutil.copytree(some.path, path)
    four = teacher_of(tmp_path / "four", ["name 8", "name 5", "name 3", "name 2"])
    by_number = make_teacher(tmp_path / "by-number")  # ten classes called 0 to 9, as many as the generator has
    unnamed = teacher_of(tmp_path / "unnamed", "abcd")
    store, _ = label(str(path), LabelOptions((str(four), str(by_number), str(unnamed))), HERE, Silent())
    outputs = {name: label_set.outputs for name, label_set in store.labels.items()}
    assert outputs == {"all": [8, 7, 5, 2], "four": [3, 2, 1, 0], "by-number": CHOSEN, "unnamed": None}
    label(str(path), LabelOptions((str(by_number),)), HERE, Silent())
    before = tree_bytes(path)
    for number, (names, message) in enumerate(
        [
            (
                ["name 2", "name 3", "x"],
                r"does not know 2 of the 4 classes that .*s\.zarr has \(name 5, name 8\): use one",
            ),
            ("abcde", r"knows 5 classes and .*s\.zarr has 4: use a teacher of the same classes"),
            (
                [f"name {i}" for i in (0, 1, 2, 3, 4, 5, 6, 7, "x", "y")],
                r"does not know 1 of the 4 classes .*\(name 8\)",
            ),
        ]
    ):
        with pytest.raises(UsageError, match=message):
            label(str(path), LabelOptions((str(teacher_of(tmp_path / f"t{number}", names)),)), HERE, Silent())
    assert tree_bytes(path) == before


def test_fewer_images_than_classes_are_refused(tiny_generator, tmp_path):
    with pytest.raises(
        UsageError, match=r"--images 3 leaves 1 of the 4 classes of --classes without an image: make at least 4\."
    ):
        make(tmp_path / "s.zarr", tiny_generator, images=3)
    assert not (tmp_path / "s.zarr").exists()


def folder_of_images(root: Path, names) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(rng.integers(0, 256, (36, 40, 3), np.uint8)).save(root / name / f"{number}.png")
    return root


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done


def test_from_generate_to_evaluate(tiny_generator, knows_all, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("four.txt").write_text("name 8\n2\n\nname 3, synonym 3\n5\n")
    images = ("--images", 40, "--steps", 2, "--sampler", "ddim", "--block-size", 16, "--device", "cpu")
    made = run("generate", "--store", "in4.zarr", "--generator", tiny_generator, "--classes", "four.txt", *images,
               "--teacher", knows_all, "--json")  # fmt: skip
    assert json.loads(made.stdout)["classes"] == 4
    assert "classes   4 of 10" in run("inspect", "in4.zarr").stdout
    run("view", "in4.zarr", "--by", "class", "--classes", "name 5,0", "--out", "sheet.png")
    run("card", "in4.zarr")
    run("export", "in4.zarr", "--to", "files", "--format", "imagefolder")
    assert Path("files/classes.txt").read_text().splitlines() == NAMES

    ten = folder_of_images(tmp_path / "val10", [f"name_{i}" for i in range(10)])
    train = ("train-student", "--store", "in4.zarr", "--student", "test_resnet", "--epochs", 1, "--batch-size", 8)
    trained = run(*train, "--out", "run", "--val", ten, "--device", "cpu")
    assert f"6 of 10 folders of {ten} are of other classes and are left out." in " ".join(trained.stderr.split())
    config = json.loads(Path("run/student/config.json").read_text())
    assert config["label_names"] == NAMES and config["num_classes"] == 4 and "label_wnids" not in config

    student = "run/student"
    of_ten = json.loads(run("evaluate", student, "--data", ten, "--json").stdout)
    four = tmp_path / "val4"
    for name in ("name_2", "name_3", "name_5", "name_8"):
        shutil.copytree(ten / name, four / name)
    of_four = run("evaluate", student, "--data", four, "--json")
    assert (
        json.loads(of_four.stdout)["confusion"] == of_ten["confusion"] and of_ten["images"] == 8 and not of_four.stderr
    )
    by_number = tmp_path / "numbers"
    for number, name in enumerate(("name_2", "name_3", "name_5", "name_8")):
        shutil.copytree(ten / name, by_number / str(number))
    assert (
        json.loads(run("evaluate", student, "--data", by_number, "--json").stdout)["confusion"] == of_ten["confusion"]
    )
    shutil.rmtree(four / "name_3")
    told = run("evaluate", student, "--data", four, "--json").stderr
    assert f"{four} has no images of 1 of the 4 classes (name 3)." in " ".join(told.split())

    folder_of_images(by_number, ["7"])
    refused = CliRunner().invoke(main, ["evaluate", student, "--data", str(by_number)])
    assert refused.exit_code == 2 and "has 5 class folders and run/student knows 4 classes" in " ".join(
        refused.stderr.split()
    )

    make("whole.zarr", tiny_generator, classes=None)
    told = run("evaluate", student, "--data", "whole.zarr", "--json")
    assert "6 of the 10 classes of whole.zarr are other ones" in " ".join(told.stderr.split())
    whole = open_store("whole.zarr")
    assert json.loads(told.stdout)["images"] == np.isin(whole.class_ids[:], CHOSEN).sum()


def test_a_comparison_measures_a_teacher_by_the_stores_names(some, tmp_path):
    path, ten = tmp_path / "s.zarr", folder_of_images(tmp_path / "val10", [f"name_{i}" for i in range(10)])
    shutil.copytree(some.path, path)
    by_number = make_teacher(tmp_path / "by-number")
    label(str(path), LabelOptions((str(by_number),)), HERE, Silent())
    shown = np.array([0, 0, 1, 1, 2, 2, 3, 3])  # of the store's classes, two images each
    found = teacher_predictions(open_store(path), "by-number", str(ten), shown, tmp_path / "out", "cpu", Execution())
    assert found is not None and found.class_ids.tolist() == shown.tolist()
    told = run("compare", path, "--labels", "by-number", "--student", "test_resnet", "--updates", 1, "--seeds", 1, "--val", ten,
               "--batch-size", 8, "--device", "cpu", "--out", tmp_path / "compared").stderr  # fmt: skip
    assert " ".join(told.split()).count(f"6 of 10 folders of {ten} are of other classes") == 1


def test_wordnet_ids_go_from_the_folders_into_the_store_and_the_student(tmp_path, monkeypatch):
    """ImageNet's folders, though their images are small."""
    monkeypatch.chdir(tmp_path)
    known = imagenet_classes()
    wnids = [known.wnids[number] for number in (134, 1, 517)]  # two that are called crane
    folder_of_images(tmp_path / "train", wnids)
    run("import", "train", "--store", "s.zarr", "--size", 32)
    store = open_store("s.zarr")
    assert store.class_names == ["goldfish, Carassius auratus", "crane", "crane"]
    assert store.class_wnids == tuple(sorted(wnids))
    run("import", "train", "--store", "s.zarr")
    run("export", "s.zarr", "--to", "files", "--format", "imagefolder")
    assert {path.name for path in Path("files").iterdir() if path.is_dir()} == set(wnids)
    thousand = make_teacher(tmp_path / "thousand", num_classes=1000)
    config = json.loads((thousand / "config.json").read_text())
    del config["label_names"]
    (thousand / "config.json").write_text(json.dumps(config))
    run("label", "--store", "s.zarr", "--teacher", thousand, "--views", "center", "--device", "cpu")
    assert open_store("s.zarr").labels["thousand"].outputs == [1, 134, 517]

    val = folder_of_images(tmp_path / "val", [known.wnids[number] for number in (0, 1, 134, 517, 999)])
    train = ("train-student", "--store", "s.zarr", "--student", "test_resnet", "--epochs", 1, "--batch-size", 2)
    run(*train, "--out", "run", "--val", val, "--device", "cpu")
    assert json.loads(Path("run/student/config.json").read_text())["label_wnids"] == sorted(wnids)
    measured = json.loads(run("evaluate", "run/student", "--data", val, "--json").stdout)
    assert np.array(measured["confusion"]).sum(1).tolist() == [2, 2, 2]
    for number in (1, 134, 517):
        shutil.rmtree(val / known.wnids[number])
    folder_of_images(val, [known.wnids[5]])
    refused = CliRunner().invoke(main, ["evaluate", "run/student", "--data", str(val)])  # as many, but other ones
    assert refused.exit_code == 2 and "has 3 class folders and run/student knows 3 classes" in " ".join(
        refused.stderr.split()
    )
