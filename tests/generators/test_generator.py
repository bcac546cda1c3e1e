"""DiTs as generators against DiTPipeline, on small random pipelines; its promises about batches; what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_dit

from dmkd.generators.load import describe_generator, load_generator
from dmkd.generators.pixels import to_uint8
from dmkd.generators.samplers import SAMPLERS
from dmkd.generators.sampling import image_generators
from dmkd.stores.errors import DmkdError, UsageError

CLASS_IDS, SEEDS = [1, 5, 9], [100, 7, 2**32 - 1]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small models are faster so; and threads that share three images cut through one, whose place then counts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def imagenet_like(tmp_path_factory):
    return save_tiny_dit(tmp_path_factory.mktemp("dit") / "thousand", num_classes=1000)


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    return save_tiny_dit(tmp_path_factory.mktemp("dit") / "ten")


@pytest.fixture(scope="module")
def generator(ten):
    return load_generator(str(ten), device="cpu", dtype="float32")


@pytest.fixture
def copy_of_ten(ten, tmp_path):
    return shutil.copytree(ten, tmp_path / "copy")


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def sample(generator, class_ids=CLASS_IDS, seeds=SEEDS, sampler="ddim", steps=6, guidance=2.0, guided_channels=4):
    options = {"sampler": sampler, "steps": steps, "guidance": guidance, "guided_channels": guided_channels}
    return generator.sample(class_ids, seeds, **options)


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_ddim_images_are_ditpipelines(imagenet_like, guidance):
    from diffusers import DiTPipeline

    class_ids = [1, 207, 999]
    pipeline = DiTPipeline.from_pretrained(imagenet_like, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    options = {"guidance_scale": guidance, "num_inference_steps": 10, "output_type": "np"}
    expected = pipeline(class_ids, generator=image_generators(SEEDS), **options).images

    generator = load_generator(str(imagenet_like), device="cpu", dtype=torch.float32)
    options = {"sampler": "ddim", "steps": 10, "guidance": guidance, "guided_channels": 4}
    images = generator.decode(generator.latents(class_ids, SEEDS, **options)).permute(0, 2, 3, 1).numpy()
    pixels = generator.sample(class_ids, SEEDS, **options).numpy()
    difference = pixels.astype(int) - (expected * 255).round().astype(int)

    assert expected.std() > 0.1
    assert np.abs(images - expected).max() <= 1e-5
    assert pixels.shape == (3, 32, 32, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) <= 1e-3


def test_the_null_class_is_the_models_own(ten, generator):
    from diffusers import DiTPipeline

    pipeline = DiTPipeline.from_pretrained(ten, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(IndexError):  # it asks for class 1000; the day it does not, compare with it above
        pipeline([1], num_inference_steps=1)

    seen = []
    hook = generator.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["class_labels"].tolist()), with_kwargs=True
    )
    sample(generator, steps=2)
    hook.remove()
    assert seen == [[1, 5, 9, 10, 10, 10]] * 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_is_the_same_to_the_bit_whatever_its_mates(generator, sampler):
    images = sample(generator, sampler=sampler)
    other = sample(generator, class_ids=[0, 5, 2], seeds=[55, 7, 66], sampler=sampler)
    assert torch.equal(other[1], images[1])
    assert torch.equal(sample(generator, sampler=sampler), images)  # and whatever was sampled in between


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_is_the_same_to_the_bit_whatever_its_place(generator, sampler):
    images = sample(generator, sampler=sampler)
    other = sample(generator, class_ids=[9, 0, 1], seeds=[2**32 - 1, 55, 100], sampler=sampler)
    assert torch.equal(other[[2, 0]], images[[0, 2]])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_other_seeds_and_other_classes_are_other_images(generator, sampler):
    images = sample(generator, [3, 3, 4], [1, 2, 1], sampler=sampler).float()
    assert (images[0] - images[1]).abs().mean() > 5
    assert (images[0] - images[2]).abs().mean() > 1


def test_options_count(generator):
    plain = sample(generator)
    for other in ({"sampler": "dpm++"}, {"steps": 5}, {"guidance": 3.0}, {"guided_channels": 3}):
        assert not torch.equal(sample(generator, **other), plain)


def test_one_image_and_none(generator):
    images = sample(generator)
    one = sample(generator, CLASS_IDS[:1], SEEDS[:1])
    assert (one[0].int() - images[0].int()).abs().max() <= 1  # batches of other sizes round differently
    assert sample(generator, [], []).shape == (0, 32, 32, 3)


def test_inputs_may_be_tensors_arrays_or_lists(generator):
    images = sample(generator)
    assert torch.equal(sample(generator, torch.tensor(CLASS_IDS), torch.tensor(SEEDS)), images)
    assert torch.equal(sample(generator, np.array(CLASS_IDS, np.int32), np.array(SEEDS, np.int64)), images)


def test_decoding_in_parts_is_decoding(generator, monkeypatch):
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = generator.decode(latents)
    monkeypatch.setattr("dmkd.generators.dit._DECODE_PIXELS", 2 * 32 * 32)
    torch.testing.assert_close(generator.decode(latents), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_half_precision_weights_make_nearly_the_same_images(ten, generator, dtype):
    half = load_generator(str(ten), device="cpu", dtype=dtype)
    assert half.dtype == getattr(torch, str(dtype).removeprefix("torch."))
    assert next(half.vae.parameters()).dtype == half.dtype
    difference = (sample(half).float() - sample(generator).float()).abs()
    assert 0 < difference.mean() < 3


@pytest.mark.slow  # the C++ compiler takes a minute
def test_compiled_models_make_the_same_images_to_a_grey_level(ten, generator):
    compiled = load_generator(str(ten), device="cpu", dtype="float32", compile=True)
    images = sample(compiled, steps=2)
    difference = (images.int() - sample(generator, steps=2).int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-2
    assert torch.equal(sample(compiled, steps=2), images)
    parts = [compiled.transformer, compiled.vae.decoder]
    assert all(part._compiled_call_impl is not None for part in parts)


def test_a_model_without_learned_variances_works(tmp_path):
    generator = load_generator(str(save_tiny_dit(tmp_path, learned_sigma=False)), device="cpu", dtype="float32")
    assert not generator.info.learned_sigma
    for sampler in SAMPLERS:
        assert sample(generator, sampler=sampler).float().std() > 10


def test_weights_as_torch_files_make_the_same_images(generator, tmp_path):
    folder = save_tiny_dit(tmp_path, safe_serialization=False)
    assert not list(folder.rglob("*.safetensors"))
    with_bin = load_generator(str(folder), device="cpu", dtype="float32")
    assert torch.equal(sample(with_bin), sample(generator))


def test_the_transformers_former_class_name_is_known(copy_of_ten, generator):
    # As facebook/DiT-XL-2-256 was saved.
    index = json.loads((copy_of_ten / "model_index.json").read_text())
    edit_json(
        copy_of_ten / "model_index.json", transformer=["diffusers", "Transformer2DModel"], id2label=index["id2label"]
    )
    edit_json(copy_of_ten / "transformer/config.json", _class_name="Transformer2DModel", cross_attention_dim=None)
    assert torch.equal(sample(load_generator(str(copy_of_ten), device="cpu", dtype="float32")), sample(generator))


def test_description_reads_the_configuration_only(copy_of_ten):
    for path in copy_of_ten.rglob("*.safetensors"):
        path.write_bytes(b"not weights")
    info = describe_generator(str(copy_of_ten))
    assert (info.name, info.source) == ("copy", str(copy_of_ten))
    assert (info.image_size, info.latent_shape, info.num_classes) == (32, (4, 8, 8), 10)
    assert (info.learned_sigma, info.num_train_timesteps) == (True, 1000)
    assert info.class_names[0] == "name 0, synonym 0"
    assert info.class_names[8:] == ("name 8", "class 9")  # the pipeline names no ninth


def test_sha256_is_of_the_weights_and_configurations(ten, copy_of_ten):
    before = describe_generator(str(ten)).sha256
    edit_json(copy_of_ten / "model_index.json", id2label={"0": "cat"})  # a name changes no pixel
    (copy_of_ten / "transformer/diffusion_pytorch_model.bin").write_bytes(b"not what is loaded")
    assert describe_generator(str(copy_of_ten)).sha256 == before

    weights = copy_of_ten / "vae/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert describe_generator(str(copy_of_ten)).sha256 != before
    content[-1] ^= 1
    weights.write_bytes(content)
    edit_json(copy_of_ten / "scheduler/scheduler_config.json", beta_end=0.03)
    assert describe_generator(str(copy_of_ten)).sha256 != before


@pytest.mark.parametrize(("class_id", "message"), [(10, "10 is out of range.*0 to 9"), (-1, "-1 is out of range")])
def test_classes_out_of_range_are_refused(generator, class_id, message):
    with pytest.raises(UsageError, match=message):
        sample(generator, [0, class_id], [1, 2])


def test_options_and_seeds_out_of_range_are_refused(generator):
    for options in (
        {"steps": 0},
        {"guidance": 0.0},
        {"sampler": "euler"},
        {"guided_channels": 5},
        {"seeds": [1, 2, 2**32]},
    ):
        with pytest.raises(UsageError):
            sample(generator, **options)
    with pytest.raises(UsageError, match="3 class ids but 2 seeds"):
        sample(generator, seeds=[1, 2])


@pytest.mark.parametrize(("component", "what"), [("transformer", "latents"), ("vae", "pixels")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_no_numbers_are_never_returned(ten, component, what, value):
    generator = load_generator(str(ten), device="cpu", dtype="float32")
    part = generator.transformer.proj_out_2 if component == "transformer" else generator.vae.decoder.conv_out
    part.bias.data[0] = value
    with pytest.raises(DmkdError, match=f"made {what} that are not finite"):
        sample(generator)


def test_rounding_is_numpys():
    halves = torch.tensor([0.0, 0.5, 1.5, 2.5, 254.5, 255.0]).reshape(1, 3, 1, 2) / 255
    expected = (halves.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(to_uint8(halves).numpy(), expected)


def test_other_pipelines_are_refused_by_name(tmp_path):
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="is a StableDiffusionPipeline with a None"):
        describe_generator(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"vae": ["diffusers", "AutoencoderDC"]}, "decodes with AutoencoderDC"),
        ("model_index.json", {"transformer": ["diffusers", "SiTTransformer"]}, "with a SiTTransformer"),
        ("transformer/config.json", {"norm_type": "ada_norm_single"}, "not class-conditional"),
        ("transformer/config.json", {"out_channels": 5}, "4 channels in and 5 out"),
        ("vae/config.json", {"latent_channels": 16}, "turns 16 channels into 3; 4 into 3 are needed"),
    ],
)
def test_pipelines_that_only_look_like_a_dit_are_refused(copy_of_ten, file, changes, message):
    edit_json(copy_of_ten / file, **changes)
    with pytest.raises(UsageError, match=message):
        describe_generator(str(copy_of_ten))


def test_a_configuration_that_is_no_json_is_refused(copy_of_ten):
    (copy_of_ten / "vae/config.json").write_text("{")
    with pytest.raises(UsageError, match=r"vae/config.json can't be read as JSON"):
        describe_generator(str(copy_of_ten))


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"lacks model_index.json"):
        describe_generator(str(tmp_path))


def test_offline_names_all_files_of_the_pipeline(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DmkdError, match="offline") as caught:
        load_generator("facebook/DiT-XL-2-256", device="cpu", dtype="float32")
    for name in ("model_index.json", "scheduler/", "transformer/diffusion_pytorch_model.safetensors", "vae/"):
        assert name in str(caught.value)


def test_damaged_weights_are_an_error_in_one_sentence(copy_of_ten):
    weights = copy_of_ten / "transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DmkdError, match="transformer can't be loaded") as caught:
        load_generator(str(copy_of_ten), device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_made_up(copy_of_ten):
    from safetensors.torch import load_file, save_file

    path = copy_of_ten / "transformer/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["proj_out_2.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(DmkdError, match="incomplete: 1 tensors are missing, such as proj_out_2.weight"):
        load_generator(str(copy_of_ten), device="cpu", dtype="float32")


def test_other_dtypes_are_refused(ten):
    with pytest.raises(UsageError, match="float32, bfloat16, float16"):
        load_generator(str(ten), device="cpu", dtype="int8")
