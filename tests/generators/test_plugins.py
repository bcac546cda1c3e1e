"""Generators of the user's own: what they may be, and one sentence for each way in which they are none."""

import hashlib
import json
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import tree_bytes

from dmkd.cli.main import main
from dmkd.generators import state_dict_sha256
from dmkd.generators.load import load_generator
from dmkd.generators.sources import parse_source, plugins
from dmkd.making.recipe_file import recipe_of
from dmkd.stores import open_store

CODE = """
import numpy as np

class Good:
    num_classes = 4
    image_size = 8
    sha256 = "ab" * 32
    scale = 1

    def sample(self, class_ids, seeds):
        assert class_ids.dtype == np.int32 and seeds.dtype == np.int64
        drawn = [np.random.default_rng(int(seed)).integers(0, 60, (8, 8, 3), np.uint8) for seed in seeds]
        return np.stack(drawn) + (self.scale * class_ids).astype(np.uint8)[:, None, None, None]

def make(device, scale=1):
    good = Good()
    good.scale = scale
    return good

def changed(**attributes):
    return lambda device: type("Made", (Good,), attributes)()

def without(name):
    return lambda device: type("Made", (), {k: v for k, v in vars(Good).items() if k != name and k[0] != "_"})()

def fails(device):
    raise RuntimeError("no weights\\nat all")

class Guided(Good):
    options = {"steps": 4, "guidance": 0.5}
    def sample(self, class_ids, seeds, *, steps, guidance):
        assert guidance.dtype == np.float32 and guidance.shape == seeds.shape
        return Good.sample(self, class_ids, seeds) + np.uint8(steps) + (10 * guidance).astype(np.uint8)[:, None, None, None]

class Counting(Good):
    calls = 0
    def sample(self, class_ids, seeds):
        self.calls += 1
        return Good.sample(self, class_ids, seeds) + np.uint8(self.calls)

class Drawing(Good):
    def sample(self, class_ids, seeds):
        return np.random.randint(0, 255, (len(seeds), 8, 8, 3)).astype(np.uint8)

def guided(device): return Guided()
def counting(device): return Counting()
def drawing(device): return Drawing()

no_names, no_size, no_hash, no_sample = map(without, ("num_classes", "image_size", "sha256", "sample"))
sample_is_no_method = changed(sample=3)
size_of_text = changed(image_size="8")
hash_too_short = changed(sha256="ab")
no_classes = changed(num_classes=0)
names_of_numbers = changed(class_names=(1, 2))
two_counts = changed(class_names=("a", "b"), num_classes=3)
other_options = changed(options={"eta": 1})
suited = changed(defaults={"images": 30, "teacher": "none"})
other_defaults = changed(defaults={"images": "many"})
wrong_shape = changed(sample=lambda self, class_ids, seeds: np.zeros((len(seeds), 3, 8, 8), np.uint8))
wrong_type = changed(sample=lambda self, class_ids, seeds: np.zeros((len(seeds), 8, 8, 3), np.float32))
no_array = changed(sample=lambda self, class_ids, seeds: [1, 2])
sample_fails = changed(sample=lambda self, class_ids, seeds: 1 / 0)
nothing = lambda device: None
"""
MODULE = "toy_generators"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a module of generators that only it has."""
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    (tmp_path / "broken_module.py").write_text("import nothing_of_this_name\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in (MODULE, "broken_module"):
        sys.modules.pop(name, None)


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def generate(*more, generator=f"{MODULE}:make", store="s.zarr"):
    # fmt: off
    return dmkd("generate", "--store", store, "--generator", generator, "--images", 20, "--block-size", 8, "--teacher", "none",
                "--device", "cpu", *more)
    # fmt: on


def made(*more, **options):
    done = generate(*more, **options)
    assert done.exit_code == 0, done.output
    return open_store(options.get("store", "s.zarr"))


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("toy_generator:make", "there is no module 'toy_generator' in the current folder"),
        ("toy_generator:make", "did you mean toy_generators?"),
        ("toy_generators.deeper:make", "there is no module 'toy_generators.deeper'"),
        ("toy_generators:mak", "toy_generators has no function called 'mak'; did you mean make"),
        ("toy_generators:MODULE", "has no function called 'MODULE'"),
        (
            "broken_module:make",
            "importing broken_module failed: ModuleNotFoundError: No module named 'nothing_of_this_name'.",
        ),
        ("toy-generators:make", "'toy-generators:make' is not of the form package.module:factory"),
        ("toy_generators:fails", "toy_generators:fails failed: RuntimeError: no weights."),
        (
            "toy_generators:nothing",
            "the NoneType that it returns has no class_names or num_classes, image_size, sha256, sample;",
        ),
        (
            "toy_generators:no_names",
            "returns has no class_names or num_classes; a generator has class_names or num_classes,",
        ),
        ("toy_generators:no_size", "returns has no image_size;"),
        ("toy_generators:no_hash", "returns has no sha256;"),
        ("toy_generators:no_sample", "returns has no sample;"),
        ("toy_generators:sample_is_no_method", "sample must be a method"),
        ("toy_generators:size_of_text", "image_size must be a whole number, 1 or more, not '8'."),
        (
            "toy_generators:hash_too_short",
            "sha256 must be 64 hexadecimal digits that change with the weights, not 'ab'",
        ),
        ("toy_generators:no_classes", "num_classes must be a whole number, 1 or more, not 0."),
        ("toy_generators:names_of_numbers", "class_names must be texts, one a class."),
        ("toy_generators:two_counts", "num_classes is 3, and there are 2 class_names."),
        ("toy_generators:other_defaults", "defaults may hold images (a number), teacher and views (texts"),
        ("toy_generators:other_options", "options must say which of steps and guidance it understands"),
        ("toy_generators:wrong_shape", "sample gave uint8 (2, 3, 8, 8) where uint8 (2, 8, 8, 3) is wanted"),
        ("toy_generators:wrong_type", "sample gave float32 (2, 8, 8, 3) where uint8 (2, 8, 8, 3) is wanted"),
        ("toy_generators:no_array", "sample gave an object of type list where uint8 (2, 8, 8, 3) is wanted"),
        ("toy_generators:sample_fails", "sample failed: ZeroDivisionError: division by zero."),
        ("toy_generators:counting", "the same class ids and seeds gave other images the second time"),
        ("toy_generators:drawing", "the same class ids and seeds gave other images the second time"),
    ],
)
def test_what_is_no_generator_gets_one_sentence_and_no_store(here, factory, sentence):
    done = generate(generator=factory)
    assert done.exit_code == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1, done.output
    assert not (here / "s.zarr").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--steps", 4], "--steps: the generator toy_generators:make does not understand it, nor any other option of sampling."),
        (["--sampler", "ddim"], "--sampler: the generator"),
        (["--guidance", 2], "--guidance: the generator"),
        (["--guidance-interval", "0.1:0.5"], "--guidance-interval: the generator"),
        (["--preset", "fast"], "--preset: the generator"),
        (["--dtype", "float32"], "--dtype: the generator"),
        (["--compile"], "--compile: the generator"),
        (["--prompt", "a {}"], "--prompt: the generator"),
        (["--image-size", 16], "--image-size 16: toy_generators:make makes images of 8 pixels, and no other."),
        (["--generator-arg", "scale"], "--generator-arg 'scale' is not of the form key=value."),
        (["--generator-arg", "scale=1", "--generator-arg", "scale=2"], "--generator-arg scale is given twice."),
        (["--generator-arg", "device=cuda"], "the device comes from --device."),
        (["--generator-arg", "a-b=1"], "'a-b' is not the name of an argument."),
        (["--generator-arg", "scael=2"], "make failed: TypeError: make() got an unexpected keyword argument 'scael'"),
        (["--class-names", "three.txt"], "--class-names gives 3 names, and toy_generators:make has 4 classes."),
        (["--generator", "digits", "--generator-arg", "a=1"], "--generator-arg is for generators of your own"),
    ],
)  # fmt: skip
def test_what_it_does_not_understand_is_refused(here, options, sentence):
    (here / "three.txt").write_text("a\nb\nc\n")
    done = generate(*options)
    assert done.exit_code == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1, done.output
    assert not (here / "s.zarr").exists()


def test_arguments_are_recorded_repeated_and_compared(here):
    store = made("--generator-arg", "scale=3")
    assert store.recipe["generator"] == store.source == "toy_generators:make"
    assert store.recipe["generator_args"] == {"scale": 3}
    nothing = ("sampler", "steps", "guidance", "guidance_interval", "guided_channels", "dtype", "vae_dtype", "prompts")
    assert not any(store.recipe.get(field) for field in nothing)
    assert store.identity != made(store="other.zarr").identity
    assert "generator_args" not in open_store("other.zarr").recipe

    pixels = tree_bytes(here / "s.zarr")
    (here / "s.zarr/images/c.1.0.0.0").unlink()
    assert dmkd("generate", "--store", "s.zarr", "--device", "cpu").exit_code == 0
    assert tree_bytes(here / "s.zarr") == pixels, "the recorded argument was used"
    refused = generate("--generator-arg", "scale=4")
    assert refused.exit_code == 2 and "generator_args.scale: the store has 3, you asked for 4" in refused.stderr
    assert "steps: the store has nothing, you asked for 4" in generate("--steps", 4).stderr
    refused = generate(generator=f"{MODULE}:guided")
    assert (
        refused.exit_code == 2
        and "was made by toy_generators:make, and you asked for toy_generators:guided" in refused.stderr
    )

    like = dmkd("generate", "--store", "like.zarr", "--like", "s.zarr", "--device", "cpu")
    assert like.exit_code == 0, like.output
    assert open_store("like.zarr").identity == store.identity and tree_bytes(here / "like.zarr") == pixels
    (here / "r.toml").write_text("\n".join(line for line in like.stderr.splitlines() if " = " in line))
    assert dmkd("generate", "--store", "file.zarr", "--recipe", "r.toml", "--device", "cpu").exit_code == 0
    assert open_store("file.zarr").identity == store.identity


def test_defaults_that_it_declares_are_those_of_its_stores(here):
    # fmt: off
    done = dmkd("generate", "--store", "s.zarr", "--generator", f"{MODULE}:suited", "--device", "cpu", "--workers", 0)
    # fmt: on
    assert done.exit_code == 0, done.output
    assert open_store("s.zarr").num_images == 30 and not open_store("s.zarr").labels


def test_options_that_it_declares_are_passed_and_recorded(here):
    generator = f"{MODULE}:guided"
    store = made(generator=generator)
    assert (store.recipe["steps"], store.recipe["guidance"], store.recipe["sampler"]) == (4, 0.5, None)
    other = made("--steps", 9, "--guidance", "1:3", generator=generator, store="o.zarr")
    assert (other.recipe["steps"], other.recipe["guidance"]) == (9, [1.0, 3.0])
    assert (other.images[:].astype(int) - store.images[:]).min() >= 5 + 5
    assert generate("--guidance", 0.5, generator=generator).exit_code == 0, "the same command goes on"
    inspected = dmkd("inspect", "o.zarr").stdout
    assert "toy_generators:guided, 9 steps, guidance 1 to 3" in inspected
    refused = generate("--sampler", "ddim", generator=generator, store="n.zarr")
    assert "does not understand it; of the options of sampling it takes --steps and --guidance." in refused.stderr


def test_a_generator_that_only_numbers_its_classes_may_be_told_their_names(here):
    (here / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    assert made().class_names == ["class 0", "class 1", "class 2", "class 3"]
    named = made("--class-names", "names.txt", store="named.zarr")
    assert named.class_names == ["ant", "bee", "cat", "dog"] and named.recipe["class_names_sha256"]
    (here / "others.txt").write_text("ant\nbee\ncat\ncow\n")
    refused = generate("--class-names", "others.txt", store="named.zarr")
    assert refused.exit_code == 2 and "class_names_sha256" in refused.stderr

    chosen = made("--class-names", "names.txt", "--classes", "bee,dog", store="chosen.zarr")
    assert chosen.class_names == ["bee", "dog"] and chosen.recipe["classes"] == [1, 3]
    assert generate("--class-names", "names.txt", "--classes", "bee,dog", store="chosen.zarr").exit_code == 0
    assert recipe_of(chosen)["class-names"] == ["class 0", "bee", "class 2", "dog"]
    for store in ("named", "chosen"):
        (here / "r.json").write_text(json.dumps(recipe_of(open_store(f"{store}.zarr"))))
        (here / "n.txt").write_text("\n".join(recipe_of(open_store(f"{store}.zarr"))["class-names"]))
        assert dmkd("generate", "--store", f"{store}2.zarr", "--recipe", "r.json", "--device", "cpu").exit_code == 0
        assert open_store(f"{store}2.zarr").identity == open_store(f"{store}.zarr").identity


def test_names_of_its_own_are_not_replaced(here):
    (here / f"{MODULE}.py").write_text(CODE + "own = changed(class_names=tuple('abcd'), num_classes=4)\n")
    (here / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    refused = generate("--class-names", "names.txt", generator=f"{MODULE}:own")
    assert refused.exit_code == 2 and "has names of its own for its classes" in refused.stderr


def test_a_plan_says_what_it_can_not_count_and_sizes_all_the_same(here):
    options = ["plan", "--store", "s.zarr", "--generator", f"{MODULE}:make", "--images", 20, "--teacher", "none"]
    screen = dmkd(*options)
    assert screen.exit_code == 0 and "sampling is not counted" in screen.stdout, screen.output
    assert "The arithmetic of toy_generators:make is not known" in " ".join(screen.stdout.split())
    found = json.loads(dmkd(*options, "--images-per-second", 10, "--json").stdout)
    assert found["arrays"]["images"]["bytes"] > 20 * 8 * 8 * 3 and found["flops"] is None
    assert found["gpu_hours"] == pytest.approx(2 / 3600)


def test_installed_packages_register_generators_under_names(here, monkeypatch):
    entry = EntryPoint("toys", f"{MODULE}:make", plugins.GROUP)

    def entry_points(group, name=None):
        return [entry] if group == plugins.GROUP and name in (None, "toys") else []

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    store = made("--generator-arg", "scale=3", generator="toys")
    assert store.source == store.recipe["generator"] == "toys"
    assert np.array_equal(store.images[:], made("--generator-arg", "scale=3", store="o.zarr").images[:])
    assert f"toys                                  {MODULE}:make" in dmkd("generators").stdout
    assert {"generator": "toys", "what": f"{MODULE}:make"} in json.loads(dmkd("generators", "--json").stdout)
    assert parse_source("digits").kind.own_code is False


def test_images_are_torchs_or_numpys_and_a_break_of_the_protocol_is_told_later_too(here):
    (here / f"{MODULE}.py").write_text(
        CODE
        + "import torch\ntensors = changed(sample=lambda self, c, s: torch.zeros(len(s), 8, 8, 3, dtype=torch.uint8))\n"
        "late = changed(sample=lambda self, c, s: np.zeros((min(len(s), 4), 8, 8, 3), np.uint8))\n"
    )
    generator = load_generator(f"{MODULE}:tensors", device="cpu")
    assert torch.equal(generator.sample([0], [1]), torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    done = generate(generator=f"{MODULE}:late")
    assert done.exit_code == 2 and "sample gave uint8 (4, 8, 8, 3) where uint8 (8, 8, 8, 3) is wanted" in done.stderr


def test_the_hash_is_of_the_weights():
    model = torch.nn.Linear(2, 2)
    first = state_dict_sha256(model)
    assert len(first) == len(hashlib.sha256().hexdigest()) and state_dict_sha256(model) == first
    with torch.no_grad():
        model.bias[0] += 1
    assert state_dict_sha256(model) != first
