"""What a generator's parts compute in: chosen, recorded, refused."""

import sys
import types

import pytest
import torch
from absent_gpu import absent_gpu

from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.generators import float8
from dmkd.generators.dit import _group_norm_keeps_channels_last
from dmkd.generators.load import describe_generator, load_generator
from dmkd.making.asked import check_images
from dmkd.making.resolve import resolve_images
from dmkd.recipes.recipe import Recipe
from dmkd.runtime.progress import Silent
from dmkd.stores import MismatchError, UsageError

HERE = RunOptions(workers=0, device="cpu")


def make(path, generator, **options):
    given = {"images": 8, "sampler": "ddim", "steps": 2, "block_size": 8, **options}
    images = ImageOptions(generator=str(generator), **given)
    return generate(str(path), images, LabelOptions(("none",)), HERE, Silent())[0]


def test_the_vae_may_be_of_another_type_than_the_transformer(tiny_generator, tmp_path):
    generator = load_generator(str(tiny_generator), device="cpu", dtype="bfloat16", vae_dtype="float32")
    assert (generator.dtype, generator.vae.dtype) == (torch.bfloat16, torch.float32)
    store = make(tmp_path / "a.zarr", tiny_generator, dtype="bfloat16", vae_dtype="float32")
    assert store.recipe["vae_dtype"] == "float32"
    assert (store.images[:] != make(tmp_path / "b.zarr", tiny_generator, dtype="bfloat16").images[:]).any()
    make(tmp_path / "a.zarr", tiny_generator, images=16)  # what the store has
    with pytest.raises(MismatchError, match="vae_dtype: the store has float32, you asked for bfloat16"):
        make(tmp_path / "a.zarr", tiny_generator, vae_dtype="bfloat16")


def test_what_is_the_default_is_not_recorded_so_recipes_stay_what_they_were(tiny_generator, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator, vae_dtype="float32")
    assert "vae_dtype" not in store.recipe and store.recipe["dtype"] == "float32"
    make(tmp_path / "s.zarr", tiny_generator, images=16, vae_dtype="float32")
    assert "vae_dtype" not in Recipe.from_json(store.recipe).to_json()


@pytest.mark.parametrize(("device", "dtype"), [("cuda", "bfloat16"), ("cpu", "float32"), ("mps", "float32")])
def test_each_device_has_a_default(tiny_generator, tmp_path, device, dtype):
    images = ImageOptions(generator=str(tiny_generator))
    assert resolve_images(str(tmp_path / "s.zarr"), images, device, describe_generator).recipe.dtype == dtype


@pytest.mark.parametrize(("option", "value"), [("dtype", "int8"), ("vae_dtype", "float8")])
def test_types_that_there_are_not_are_refused(option, value):
    with pytest.raises(
        UsageError, match=f"--{option.replace('_', '-')} must be one of float32, bfloat16, .*not '{value}'"
    ):
        check_images(ImageOptions(**{option: value}))


def test_float8_without_such_a_gpu_is_one_sentence_and_leaves_no_store(tiny_generator, tmp_path):
    with pytest.raises(UsageError, match="--dtype float8 needs a GPU with float8 products, and the device is cpu"):
        make(tmp_path / "s.zarr", tiny_generator, dtype="float8")
    assert not (tmp_path / "s.zarr").exists()
    with pytest.raises(UsageError, match="needs a GPU with float8 products"):
        load_generator(str(tiny_generator), device="cpu", dtype="float8")


def test_an_older_gpu_and_a_missing_library_are_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UsageError, match=r"NVIDIA A100 has no float8 products \(compute capability 8.9 or more\)"):
        float8.require_float8("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UsageError, match="needs torchao: pip install"):
        float8.require_float8("cuda")


def test_only_the_products_over_tokens_become_float8(tiny_generator, monkeypatch):
    """With torchao's place taken: it refuses machines without such a GPU."""
    replaced, options = [], {}

    def quantize(blocks, config, filter_fn):
        replaced.extend(name for name, module in blocks.named_modules() if filter_fn(module, name))

    fake = types.SimpleNamespace(
        PerRow=lambda: "rows", quantize_=quantize, Float8DynamicActivationFloat8WeightConfig=options.update
    )
    monkeypatch.setitem(sys.modules, "torchao", types.SimpleNamespace(quantization=fake))
    monkeypatch.setitem(sys.modules, "torchao.quantization", fake)
    monkeypatch.setattr(float8, "require_float8", lambda device: None)
    fake.Float8DynamicActivationFloat8WeightConfig = lambda **given: options.update(given)
    generator = load_generator(str(tiny_generator), device="cpu", dtype="bfloat16")
    float8.to_float8(generator.transformer)
    layers = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"]
    assert replaced == [f"{block}.{layer}" for block in (0, 1) for layer in layers]
    assert options == {"granularity": "rows", "set_inductor_config": False}


def test_beside_float8_the_vae_is_bfloat16(tiny_generator, tmp_path, monkeypatch):
    monkeypatch.setattr("dmkd.generators.dit.to_float8", lambda transformer: None)
    generator = load_generator(str(tiny_generator), device="cpu", dtype="float8")
    assert (generator.dtype, generator.vae.dtype) == (torch.bfloat16, torch.bfloat16)
    assert generator.sample([1], [2], sampler="ddim", steps=2, guidance=2.0, guided_channels=3).dtype == torch.uint8


def test_whether_group_norm_keeps_channels_last_is_asked_of_the_device():
    assert _group_norm_keeps_channels_last("cpu")
    with absent_gpu():
        here = torch.nn.functional.group_norm(
            torch.empty(1, 32, 2, 2, device="cuda").to(memory_format=torch.channels_last), 8
        ).is_contiguous(memory_format=torch.channels_last)
        assert _group_norm_keeps_channels_last("cuda") == here
