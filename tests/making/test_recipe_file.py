"""Recipes as files and other stores as recipes: what is written is what is read, and what is typed wins."""

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import filled_store, tree_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from dmkd.cli.main import main
from dmkd.making.recipe_file import FLAG, KEYS, NUMBER, TEXT, TEXTS, WHOLE, read_recipe, recipe_of, to_toml
from dmkd.stores import UsageError, open_store

TEXTS_WITHOUT_SURROGATES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = {
    WHOLE: st.integers(-(2**63), 2**63 - 1),
    NUMBER: st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 99) | st.just("1.5:3"),
    TEXT: TEXTS_WITHOUT_SURROGATES,
    FLAG: st.booleans(),
    TEXTS: st.lists(TEXTS_WITHOUT_SURROGATES, max_size=3),
}


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@given(st.fixed_dictionaries({}, optional={key: VALUES[kind] for key, kind in KEYS.items()}))
def test_what_is_written_is_what_toml_reads(options):
    assert tomllib.loads(to_toml(options)) == options


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_recipe_or_one_sentence(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read = read_recipe(str(file))
    except UsageError:
        return
    assert read.keys() <= KEYS.keys()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            'stepps = 3\nsampler = "ddim"',
            "has the unknown key 'stepps'; known are generator, generator-arg, vae, images",
        ),
        ("steps = '3'", 'steps must be a whole number, not "3"'),
        ("steps = 3.5", "steps must be a whole number, not 3.5"),
        ("images = true", "images must be a whole number, not true"),
        ("classes = [1, 2]", "classes must be a text, not [1, 2]"),
        ("teacher = [1]", "teacher must be a text or a list of texts, not [1]"),
        ("guidance = nan", "guidance must be a number or a text, not NaN"),
        ("dtype = 2020-01-01", 'dtype must be a text, not "2020-01-01"'),
        ('{"seed": null}', "seed must be a whole number, not null"),
        ("steps = ", "is neither TOML nor JSON"),
        ("{", "is neither TOML nor JSON"),
    ],
)
def test_a_wrong_recipe_gets_one_sentence_and_no_store(tmp_path, text, sentence):
    (tmp_path / "r.toml").write_text(text)
    done = dmkd("generate", "--store", tmp_path / "s.zarr", "--recipe", tmp_path / "r.toml")
    assert done.exit_code == 2 and sentence in done.stderr, done.output
    assert not (tmp_path / "s.zarr").exists()


def test_a_recipe_that_is_not_there(tmp_path):
    done = dmkd("plan", "--recipe", tmp_path / "r.toml")
    assert done.exit_code == 2 and "can't be read: No such file or directory." in done.stderr


@pytest.fixture(scope="module")
def first(tmp_path_factory, tiny_generator, tiny_teacher, other_teacher):
    """A store made from the command line -> its path and what was told on stderr."""
    path = tmp_path_factory.mktemp("first") / "s.zarr"
    # fmt: off
    done = dmkd("generate", "--store", path, "--generator", tiny_generator, "--teacher", tiny_teacher, "--teacher",
                other_teacher, "--images", 24, "--block-size", 8, "--steps", 3, "--sampler", "ddim", "--classes", "0-3,7",
                "--guidance", "1.5:3", "--guidance-interval", "0.1:0.75", "--seed", 5, "--views", "rrc:2,flip=0",
                "--view-seed", 9, "--codec", "topk:4", "--device", "cpu")
    # fmt: on
    assert done.exit_code == 0, done.output
    return path, done.stderr


def told(stderr):
    return "\n".join(line for line in stderr.splitlines() if " = " in line)


def test_the_recipe_that_is_told_makes_the_same_store_again(first, tmp_path):
    path, stderr = first
    (tmp_path / "r.toml").write_text(told(stderr))
    done = dmkd("generate", "--store", tmp_path / "s.zarr", "--recipe", tmp_path / "r.toml", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert tree_bytes(path) == tree_bytes(tmp_path / "s.zarr")
    assert told(done.stderr) == told(stderr)
    assert open_store(path).identity == open_store(tmp_path / "s.zarr").identity
    # The same recipe goes on with the store that it made, and tells nothing new.
    again = dmkd("generate", "--store", tmp_path / "s.zarr", "--recipe", tmp_path / "r.toml", "--device", "cpu")
    assert again.exit_code == 0 and not told(again.stderr), again.output


def test_a_store_like_another_is_the_same_and_what_is_typed_wins(first, tmp_path):
    path, stderr = first
    written, read_off = tomllib.loads(told(stderr)), recipe_of(open_store(path))
    assert {**written, "teacher": sorted(written["teacher"])} == {**read_off, "teacher": sorted(read_off["teacher"])}
    done = dmkd("generate", "--store", tmp_path / "s.zarr", "--like", path, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert tree_bytes(path) == tree_bytes(tmp_path / "s.zarr")
    options = ["--like", path, "--guidance", 4, "--teacher", "none", "--device", "cpu", "--json"]
    planned = json.loads(dmkd("plan", "--store", tmp_path / "new.zarr", *options).stdout)["recipe"]
    dropped = ("views", "view-seed", "codec", "teacher-precision")
    expected = recipe_of(open_store(path)) | {"guidance": 4.0, "teacher": ["none"]}
    assert planned == {key: value for key, value in expected.items() if key not in dropped}


def test_a_files_options_win_over_another_stores(first, tmp_path):
    path, _ = first
    (tmp_path / "r.json").write_text(json.dumps({"steps": 7, "teacher": "digits-vit", "images": 16}))
    options = ["--like", path, "--recipe", tmp_path / "r.json", "--images", 40, "--device", "cpu", "--json"]
    recipe = json.loads(dmkd("plan", "--store", tmp_path / "n.zarr", *options).stdout)["recipe"]
    assert (recipe["steps"], recipe["teacher"], recipe["images"]) == (7, ["digits-vit"], 40)
    assert recipe["sampler"] == "ddim" and recipe["codec"] == "topk:4"


def test_a_store_that_differs_is_refused_as_ever(first, tmp_path):
    path, _ = first
    (tmp_path / "r.toml").write_text("steps = 9")
    before = {file: file.stat().st_mtime_ns for file in Path(path).rglob("*")}
    done = dmkd("generate", "--store", path, "--recipe", tmp_path / "r.toml", "--device", "cpu")
    assert done.exit_code == 2 and "steps: the store has 3, you asked for 9" in done.stderr
    assert before == {file: file.stat().st_mtime_ns for file in Path(path).rglob("*")}


def test_a_store_that_no_generator_made_gives_no_recipe(tmp_path):
    filled_store(tmp_path / "s.zarr", num_images=16)
    done = dmkd("plan", "--store", tmp_path / "n.zarr", "--like", tmp_path / "s.zarr")
    assert done.exit_code == 2 and "was not made by a generator" in done.stderr
    done = dmkd("plan", "--store", tmp_path / "n.zarr", "--like", tmp_path / "nowhere.zarr")
    assert done.exit_code == 2 and "There is no store at" in done.stderr


def test_the_teacher_whose_views_they_are_comes_first(tmp_path, tiny_generator, other_teacher):
    """The first teacher sets the size of the views: label sets are listed by name, and that order would change it."""
    from conftest import make_teacher

    config = json.loads((other_teacher / "config.json").read_text())
    small = make_teacher(tmp_path / "zzz-small", seed=3)
    changed = json.loads((small / "config.json").read_text())
    changed["pretrained_cfg"] |= {"input_size": [3, 24, 24]}
    (small / "config.json").write_text(json.dumps(changed))
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    # fmt: off
    done = dmkd("generate", "--store", tmp_path / "s.zarr", "--generator", tiny_generator, "--teacher", small, "--teacher",
                other_teacher, "--images", 8, "--steps", 2, "--views", "rrc:1", "--device", "cpu")
    # fmt: on
    assert done.exit_code == 0, done.output
    store = open_store(tmp_path / "s.zarr")
    assert store.views["rrc1"].attributes["size"] == 24
    assert recipe_of(store)["teacher"] == [str(small), str(other_teacher)]
