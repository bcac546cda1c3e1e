"""What is compiled, how often, and what a machine without a compiler says."""

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

import dmkd.generators.compiling as compiling
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.generate import _as_this_machine_can as as_this_machine_can
from dmkd.generators.dit import Generator
from dmkd.generators.load import describe_generator, load_generator
from dmkd.making.resolve import resolve_images
from dmkd.runtime.progress import Silent
from dmkd.stores import UsageError

HERE = RunOptions(workers=0, device="cpu")


class Told(Silent):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)


def test_all_blocks_share_what_is_compiled_for_guided_and_unguided_steps(tiny_generator, monkeypatch):
    """Two shapes are two graphs, however many blocks and timesteps there are."""
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(
        compiling, "compile_for_fixed_shapes", lambda part: part.compile(backend=counter, dynamic=False, fullgraph=True)
    )
    generator = load_generator(str(tiny_generator), device="cpu", dtype="float32")
    compiling.compile_blocks(generator.transformer)
    assert len(generator.transformer.transformer_blocks) == 2
    options = {"sampler": "ddim", "steps": 6, "guidance": 2.0, "guided_channels": 3, "guidance_interval": (0.3, 0.7)}
    images = generator.sample([1, 2, 3], [4, 5, 6], **options)
    assert counter.frame_count == 2
    torch.testing.assert_close(images, _eager(tiny_generator).sample([1, 2, 3], [4, 5, 6], **options))


@pytest.mark.parametrize(
    ("kind", "parts"), [("cpu", ["DiTTransformer2DModel"]), ("cuda", ["BasicTransformerBlock"] * 2)]
)
def test_on_a_gpu_a_transformer_is_compiled_by_blocks(tiny_generator, monkeypatch, kind, parts):
    compiled = []
    monkeypatch.setattr(compiling, "compile_for_fixed_shapes", lambda part: compiled.append(type(part).__name__))
    monkeypatch.setattr(compiling, "device_type", lambda device: kind)
    generator = _eager(tiny_generator)
    compiling.compile_models(generator.transformer, generator.vae.decoder)
    assert compiled == [*parts, "Decoder"]


def _eager(source) -> Generator:
    return load_generator(str(source), device="cpu", dtype="float32")


def test_on_a_gpu_models_are_compiled_unless_told_otherwise(tmp_path, tiny_generator):
    def compiled(device, **options):
        images = ImageOptions(generator=str(tiny_generator), **options)
        return resolve_images(str(tmp_path / "s.zarr"), images, device, describe_generator).recipe.compile

    assert [compiled(device) for device in ("cuda", "cuda:1", "cpu", "mps")] == [True, True, False, False]
    assert compiled("cuda", compile=False) is False and compiled("cpu", compile=True) is True


def test_without_a_compiler_only_what_was_not_asked_for_is_left_out(tmp_path, tiny_generator, no_compiler):
    options = {
        "generator": str(tiny_generator),
        "images": 8,
        "sampler": "ddim",
        "steps": 1,
        "block_size": 8,
        "dtype": "float32",
    }
    told = Told()

    def make(**more):
        return generate(str(tmp_path / "s.zarr"), ImageOptions(**options, **more), LabelOptions(("none",)), HERE, told)[
            0
        ]

    with pytest.raises(
        UsageError, match=r"^--compile: there is no C\+\+ compiler \(g\+\+, clang\+\+, c\+\+\): install one"
    ):
        make(compile=True)
    assert not (tmp_path / "s.zarr").exists()

    images = ImageOptions(generator=str(tiny_generator))
    wanted = resolve_images(str(tmp_path / "s.zarr"), images, "cuda", describe_generator)
    assert wanted.recipe.compile and not as_this_machine_can(wanted, images, "cuda", told).recipe.compile
    assert told.notices == [
        "The models are not compiled, so that images take longer: there is no C compiler (gcc, clang, cc): install one, as in "
        "apt install build-essential."
    ]


def test_a_compiled_store_is_not_gone_on_with_by_uncompiled_models(tmp_path, tiny_generator, monkeypatch):
    monkeypatch.setattr(compiling, "compile_for_fixed_shapes", lambda part: None)
    options = {"generator": str(tiny_generator), "sampler": "ddim", "steps": 1, "block_size": 8, "compile": True}
    path = str(tmp_path / "s.zarr")
    generate(path, ImageOptions(images=8, **options), LabelOptions(("none",)), HERE, Silent())
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="The images of this store are made by compiled models: there is no C"):
        generate(path, ImageOptions(images=16), LabelOptions(("none",)), HERE, Silent())
    with pytest.raises(UsageError, match=r"made by compiled models \(--compile\), and there is no C"):
        load_generator(str(tiny_generator), device="cpu", dtype="float32", compile=True)


def test_a_compiler_that_is_named_is_the_one_that_counts(monkeypatch):
    assert compiling.missing_for_compiling("cpu") is None, "these tests run where there is one"
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("CC", "no-such-compiler-either")
    assert "(no-such-compiler)" in compiling.missing_for_compiling("cpu")
    assert "(no-such-compiler-either)" in compiling.missing_for_compiling("cuda:1")
    assert compiling.missing_for_compiling("mps") == "dmkd does not compile models for mps"


def test_pythons_headers_are_needed_too(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling.sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python's headers are missing" in compiling.missing_for_compiling("cpu")


@pytest.mark.slow  # the C++ compiler takes half a minute
def test_compiled_and_uncompiled_images_differ_by_a_grey_level_at_most(tmp_path, tiny_generator):
    def make(name, compile):
        options = {"images": 16, "sampler": "ddim", "steps": 3, "block_size": 8, "compile": compile}
        images = ImageOptions(generator=str(tiny_generator), **options)
        return generate(str(tmp_path / name), images, LabelOptions(("none",)), HERE, Silent())[0].images[:]

    difference = np.abs(make("a.zarr", True).astype(int) - make("b.zarr", False))
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-2
