"""Stores without labels, or with labels of a part of their images, and views of a size of one's own, as users type it."""

import json
import re

import pytest
from click.testing import CliRunner
from conftest import make_teacher
from PIL import Image

from dmkd.classifiers.load import load_classifier
from dmkd.cli.main import main
from dmkd.stores import layout, open_store


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DMKD_STORE", raising=False)
    return tmp_path


def dmkd(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done


def generate(generator, store, *more):
    # fmt: off
    return dmkd("generate", "--generator", generator, "--images", 24, "--block-size", 8, "--steps", 2, "--sampler", "ddim",
                "--device", "cpu", "--store", store, *more)
    # fmt: on


TRAIN = (
    "train-student",
    "--student",
    "test_resnet",
    "--epochs",
    1,
    "--batch-size",
    8,
    "--device",
    "cpu",
    "--out",
    "run",
)


def trained():
    return json.loads(open("run/summary.json").read())


@pytest.mark.parametrize("store", ["one.zarr", "one.h5"])
def test_a_generated_store_without_a_teacher_trains(store, here, tiny_generator):
    generate(tiny_generator, store, "--teacher", "none")
    done = dmkd(*TRAIN, "--store", store, "--loss", "hard")
    assert "rrc at 32 x 32 pixels, a new one of each image in each epoch" in " ".join(done.output.split())
    assert "left out" not in done.output
    summary = trained()
    assert summary["training"]["view_set"] == "rrc" and summary["store"]["images"] == 24
    assert "size" not in summary["training"]
    student = load_classifier("run/student")
    assert (student.input_size, student.crop_pct) == (32, 1.0)


def test_imported_images_without_a_teacher_train_on_views_of_the_users_choice(here):
    for number in range(12):
        folder = here / "photos" / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (20 * number, 99, 7)).save(folder / f"{number}.png")
    dmkd("import", "photos", "--store", "photos.zarr")
    done = dmkd(*TRAIN, "--store", "photos.zarr", "--loss", "hard", "--views", "rrc,scale=0.50:1,flip=0", "--size", 16)
    shown = " ".join(done.output.split())
    assert "rrc,scale=0.5:1,flip=0 at 16 x 16 pixels (drawn for 24)" in shown
    summary = trained()
    assert (summary["training"]["view_set"], summary["training"]["size"]) == ("rrc,scale=0.5:1,flip=0", 16)
    assert load_classifier("run/student").input_size == 16
    refused = CliRunner().invoke(main, [*map(str, TRAIN), "--store", "photos.zarr", "--loss", "hard", "--views", "rcc"])
    assert (
        refused.exit_code == 2 and "no view set 'rcc'" in refused.output and "rrc (a new random crop" in refused.output
    )


@pytest.mark.parametrize("store", ["s.zarr", "s.h5"])
def test_hard_labels_use_images_that_no_teacher_has_labelled(store, here, tiny_generator, tiny_teacher):
    generate(tiny_generator, store, "--teacher", tiny_teacher, "--views", "rrc:2")
    opened = open_store(store)
    label_set = opened.labels["tiny-resnet"]
    for node in (label_set.marker, f"{layout.VIEWS}/rrc2"):
        opened.chunks.tree.delete_block(node, 1)
    assert json.loads(dmkd("inspect", "--store", store, "--json").output)["label_sets"]["tiny-resnet"]["missing_blocks"]
    done = dmkd(*TRAIN, "--store", store, "--loss", "hard")
    assert "left out" not in done.output
    assert trained()["store"]["images"] == 24 and trained()["training"]["view_set"] == "rrc2"
    done = dmkd(*TRAIN, "--store", store, "--loss", "hard", "--select", "entropy < 99", "--out", "selected")
    assert "8 of 24 images are not selected, not made or not labelled yet and are left out." in done.output


def test_the_size_of_views_is_the_users_and_printed(here, tiny_generator, tiny_teacher):
    made = generate(tiny_generator, "a.zarr", "--teacher", tiny_teacher)
    assert 'views = "rrc:8,size=32"' in made.stderr
    small = generate(tiny_generator, "b.zarr", "--teacher", tiny_teacher, "--views", "rrc:2,size=16,flip=0")
    recipe = next(line for line in small.stderr.splitlines() if line.startswith("views = "))
    assert recipe == 'views = "rrc:2,flip=0,size=16"'
    attributes = open_store("b.zarr").views["rrc2"].attributes
    assert attributes["size"] == 16 and "size" not in attributes["policy"]
    told = [line for line in small.stderr.splitlines() if re.match(r"[a-z-]+ = ", line)]
    (here / "recipe.toml").write_text("\n".join(told))
    for again, source in (("c.zarr", ("--recipe", "recipe.toml")), ("d.zarr", ("--like", "b.zarr"))):
        dmkd("generate", "--store", again, "--device", "cpu", *source)
        assert open_store(again).views["rrc2"].attributes == attributes
        assert open_store(again).labels["tiny-resnet"].identity == open_store("b.zarr").labels["tiny-resnet"].identity


def test_a_store_holds_the_same_views_at_two_sizes(here, tiny_generator, tiny_teacher, other_teacher):
    generate(tiny_generator, "a.zarr", "--teacher", tiny_teacher, "--views", "rrc:2")
    for _ in range(2):
        dmkd("label", "--store", "a.zarr", "--teacher", other_teacher, "--views", "rrc:2,size=48", "--device", "cpu")
    store = open_store("a.zarr")
    assert {name: views.attributes["size"] for name, views in store.views.items()} == {"rrc2": 32, "rrc2-48px": 48}
    assert list(store.labels) == ["tiny-efficientnet-rrc2-48px", "tiny-resnet"]


def test_a_teacher_of_one_size_is_given_views_of_its_size(here, tiny_generator, tmp_path_factory):
    vit = make_teacher(tmp_path_factory.mktemp("vit") / "tiny-vit", "test_vit")
    generate(tiny_generator, "a.zarr", "--teacher", "none")
    for command in ("label", "codec-report"):
        arguments = [command, "--store", "a.zarr", "--teacher", vit, "--views", "rrc:2,size=48", "--device", "cpu"]
        refused = CliRunner().invoke(main, [*map(str, arguments)])
        assert refused.exit_code == 2, refused.output
        assert "takes 32x32 images only, and the views are 48x48" in " ".join(refused.output.split())
        assert "--views rrc:8,size=32" in " ".join(refused.output.split())
    assert not open_store("a.zarr").views
    dmkd("label", "--store", "a.zarr", "--teacher", vit, "--views", "rrc:2,size=32", "--device", "cpu")
    assert open_store("a.zarr").views["rrc2"].attributes["size"] == 32


def test_a_student_of_small_images_does_not_train_at_the_teachers_size(here, tiny_generator, tiny_teacher):
    generate(tiny_generator, "a.zarr", "--teacher", tiny_teacher, "--views", "rrc:2,size=96")
    done = dmkd(*TRAIN, "--store", "a.zarr")
    assert "rrc2 at 32 x 32 pixels (stored for 96)" in " ".join(done.output.split())
    assert trained()["training"]["size"] == 32 and load_classifier("run/student").input_size == 32
    done = dmkd(*TRAIN, "--store", "a.zarr", "--size", 96, "--out", "large")
    assert "rrc2 at 96 x 96 pixels" in " ".join(done.output.split()) and "stored for" not in done.output
    assert "size" not in json.loads((here / "large/summary.json").read_text())["training"]


def test_students_of_several_sizes_are_compared(here, tiny_generator, tiny_teacher):
    generate(tiny_generator, "a.zarr", "--teacher", tiny_teacher, "--views", "rrc:2+cutmix")
    arguments = ("--student", "test_resnet", "--epochs", 1, "--batch-size", 8, "--device", "cpu", "--seeds", 1)
    compared = dmkd(
        "compare", "a.zarr", *arguments, "--vary", "size=24,32", "--val", "a.zarr", "--json", "--workers", 0
    )
    rows = json.loads(compared.stdout.splitlines()[-1])["rows"]
    assert [row["size"] for row in rows] == [24, 32]


def test_what_views_can_not_be_is_said(here, tiny_generator, tiny_teacher):
    generate(tiny_generator, "a.zarr", "--teacher", tiny_teacher, "--views", "rrc:2")
    for arguments, sentence in (
        (("label", "--views", "rrc:2,size=", "--teacher", tiny_teacher), "size takes one number of pixels"),
        (("label", "--views", "rrc:2,size=0", "--teacher", tiny_teacher), "size takes one number of pixels"),
        (("label", "--views", "rrc:2,size=9,size=8", "--teacher", tiny_teacher), "given once"),
        (("train-student", "--views", "rrc"), "labels tiny-resnet are of the views rrc2"),
        (("train-student", "--size", "0"), "--size must be greater than 0"),
    ):
        done = CliRunner().invoke(main, [*map(str, arguments), "--store", "a.zarr", "--device", "cpu"])
        assert done.exit_code == 2 and sentence in " ".join(done.output.split()), done.output
    assert list(open_store("a.zarr").views) == ["rrc2"]
