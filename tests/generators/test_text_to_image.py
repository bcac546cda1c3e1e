"""Text-to-image pipelines as generators, on tiny ones with random weights: five families of diffusers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import make_teacher, tree_bytes
from safetensors.torch import load_file, save_file
from tiny_text_models import save_tiny_text_pipeline

from dmkd.cli.main import main
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.generators.load import describe_generator, load_generator
from dmkd.generators.prompt_cache import PromptCache
from dmkd.generators.sampling import image_generators
from dmkd.generators.text_to_image import make_text_scheduler
from dmkd.making.recipe_file import recipe_of
from dmkd.making.resolve import resolve_images
from dmkd.recipes.prompts import Wording
from dmkd.runtime.progress import Silent
from dmkd.stores import DmkdError, MismatchError, UsageError, open_store
from dmkd.verify import verify

FAMILIES = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "PixArtSigmaPipeline",
    "FluxPipeline",
)
NAMES = ("cat, felis catus", "dog", "fish")
HERE = RunOptions(workers=0, device="cpu")


@pytest.fixture(scope="session")
def families(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("text-to-image")
    return {kind: save_tiny_text_pipeline(folder / kind, kind) for kind in FAMILIES}


@pytest.fixture
def stable_diffusion(families) -> Path:
    return families["StableDiffusionPipeline"]


@pytest.fixture(scope="session")
def names_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("names") / "animals.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return path


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teacher") / "animals-resnet", num_classes=3)


def load(folder, templates=("a photo of a {}",), negative=None, **options):
    wording = Wording(NAMES, tuple(templates), negative, 0)
    return load_generator(str(folder), device="cpu", dtype="float32", wording=wording, **options)


def sample(generator, class_ids, seeds, guidance=3.0, **options):
    options = {"sampler": "pipeline", "steps": 2, **options}
    return generator.sample(class_ids, seeds, guidance=guidance, **options).numpy().astype(int)


def make(path, generator, names, teacher="none", **options):
    options = {"class_names": str(names), "images": 20, "steps": 2, "block_size": 8, "sub_batch": 4, **options}
    labels = LabelOptions(None if teacher is None else (str(teacher),), "center")
    return generate(str(path), ImageOptions(generator=str(generator), **options), labels, HERE, Silent())[0]


@pytest.mark.parametrize("kind", FAMILIES)
def test_images_are_the_stock_pipelines(families, kind):
    import diffusers

    negative = None if kind == "FluxPipeline" else "blurry"
    # Flux's configuration names no size, and PixArt has none as small as this among those it rounds to.
    options = {"use_resolution_binning": False, "clean_caption": False} if kind == "PixArtSigmaPipeline" else {}
    without = {"text_encoder_3": None, "tokenizer_3": None} if kind == "StableDiffusion3Pipeline" else {}
    images = sample(load(families[kind], ["a {}"], negative, image_size=32), [0, 1, 2], [5, 6, 7], steps=3)
    stock = getattr(diffusers, kind).from_pretrained(families[kind], **without)
    stock.set_progress_bar_config(disable=True)
    if negative:
        options["negative_prompt"] = [negative] * 3
    expected = stock(
        prompt=["a cat", "a dog", "a fish"],
        generator=image_generators([5, 6, 7]),
        num_inference_steps=3,
        guidance_scale=3.0,
        height=32,
        width=32,
        output_type="np",
        **options,
    ).images
    assert np.abs(images - (expected * 255).round()).max() <= 1  # prompts are encoded one by one
    assert images.shape == (3, 32, 32, 3) and images.std() > 10


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_image_depends_on_its_class_and_seed_and_not_on_its_batch(families, kind):
    generator = load(families[kind], image_size=32)
    images = sample(generator, [0, 1, 0], [5, 5, 6])
    assert (images[0] != images[1]).any() and (images[0] != images[2]).any(), "class and seed count"
    others = sample(generator, [2, 1, 1], [9, 5, 8])
    np.testing.assert_array_equal(images[1], others[1])
    np.testing.assert_array_equal(sample(generator, [0, 1, 0], [5, 5, 6]), images)
    assert np.abs(sample(generator, [1], [5])[0] - images[1]).max() <= 1


def test_each_prompt_is_encoded_once(stable_diffusion):
    generator = load(stable_diffusion, ["a {}"])
    calls = []
    generator.pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    sample(generator, [0, 1, 0, 1], [1, 2, 3, 4], guidance=1.0)
    assert len(calls) == 2
    sample(generator, [1, 0, 2], [5, 6, 7], guidance=1.0)
    assert len(calls) == 3
    sample(generator, [0], [8], guidance=3.0)
    assert len(calls) == 5, "guidance needs the negative prompt's embedding too"


def test_the_cache_forgets_what_was_used_least_recently():
    calls = []

    def encode(prompt, negative_prompt=None, prompt_embeds=None):
        calls.append(prompt[0])
        return torch.full((1, 4), float(len(prompt[0]))), None, torch.arange(3), [torch.ones(len(prompt[0]))]

    cache = PromptCache(encode, torch.device("cpu"), max_bytes=2 * (16 + 24 + 4 * 2))
    embeddings, nothing, positions, lists = cache(["a", "bb", "a"], negative_prompt=["x", "x", "x"])
    assert embeddings[:, 0].tolist() == [1, 2, 1] and nothing is None and positions.tolist() == [0, 1, 2]
    assert [len(item) for item in lists] == [1, 2, 1] and calls == ["a", "bb"]
    cache(["cc"], ["x"])  # no room for three: bb goes, a was used since
    cache(["a"], ["x"])
    assert calls == ["a", "bb", "cc"]
    cache(["bb"], ["x"])
    assert calls == ["a", "bb", "cc", "bb"]
    cache(["a"], ["y"])
    assert calls[-1] == "a", "another negative prompt is another encoding"


def test_embeddings_of_different_lengths_are_refused():
    cache = PromptCache(lambda prompt: torch.zeros(1, len(prompt[0])), torch.device("cpu"))
    with pytest.raises(DmkdError, match="different lengths"):
        cache(["a", "bb"])


def test_a_store_is_finished_resumed_grown_and_made_again(stable_diffusion, names_file, teacher, tmp_path):
    options = {"prompts": ("a {}", "the {}"), "negative_prompt": "blurry", "teacher": teacher}
    store = make(tmp_path / "a.zarr", stable_diffusion, names_file, **options)
    assert store.missing_blocks() == [] and store.labels["animals-resnet"].missing_blocks() == []
    assert store.class_names == list(NAMES) and store.images.shape == (20, 32, 32, 3)
    assert store.recipe["sampler"] == "pipeline" and store.recipe["prompts"] == ["a {}", "the {}"]
    before = tree_bytes(tmp_path / "a.zarr")
    (tmp_path / "a.zarr/images/c.1.0.0.0").unlink()
    generate(store.path, ImageOptions(), LabelOptions(), HERE, Silent())  # nothing but the store need be named
    assert tree_bytes(tmp_path / "a.zarr") == before

    grown = make(tmp_path / "b.zarr", stable_diffusion, names_file, images=12, **options)
    generate(grown.path, ImageOptions(images=20), LabelOptions(), HERE, Silent())
    assert tree_bytes(tmp_path / "b.zarr") == before


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"prompts": ("the {}",)}, "prompts"),
        ({"negative_prompt": "blurry"}, "negative_prompt"),
        ({"image_size": 64}, "image_size: the store has 32, you asked for 64"),
        ({"guidance": 0}, "guidance: the store has 2.0, you asked for 0"),
        ({"class_names": "other.txt"}, "class_names_sha256"),
    ],
)
def test_a_recipe_that_differs_is_refused(stable_diffusion, names_file, tmp_path, monkeypatch, options, field):
    monkeypatch.chdir(tmp_path)
    Path("other.txt").write_text("cat\ndog\nbird\n")
    store = make("s.zarr", stable_diffusion, names_file, images=4)
    with pytest.raises(MismatchError, match=field):
        generate(store.path, ImageOptions(**options), LabelOptions(), HERE, Silent())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "ddpm"}, "sampled with pipeline .*, ddim, dpm\\+\\+, unipc; not with 'ddpm'"),
        ({"steps": 1001}, "takes 1 to 1000 steps"),
        ({"guidance": "2:3"}, "one scale for all images"),
        ({"guidance": 31}, "Guidance 31 is out of range: 0 .none. to 30"),
        ({"guidance_interval": "0.1:0.5"}, "--guidance-interval is for class-conditional generators"),
        ({"guided_channels": 3}, "--guided-channels is for class-conditional generators"),
        ({"image_size": 30}, "makes images in multiples of 4 pixels"),
        ({"image_size": 0}, "image.size"),
        ({"prompts": ("cat",)}, "lacks {}"),
        ({"negative_prompt": "blurry", "guidance": 1}, "--negative-prompt has no effect with guidance 1"),
        ({"class_names": None}, "needs class names: --class-names FILE"),
        ({"class_names": "nowhere.txt"}, "nowhere.txt can't be read"),
        ({"classes": "3"}, "there is no class 3"),
    ],
)
def test_options_that_do_not_fit_leave_nothing_behind(stable_diffusion, names_file, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        make(tmp_path / "s.zarr", stable_diffusion, **{"names": names_file, **options})
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": ("a {}",)}, "--prompt is for text-to-image generators"),
        ({"negative_prompt": "x"}, "--negative-prompt is for text-to-image generators"),
        ({"class_names": "imagenet"}, "--class-names is for text-to-image generators"),
        ({"image_size": 64}, "--image-size 64: tiny makes images of 32 pixels"),
    ],
)
def test_a_class_conditional_generator_is_told_no_words(tiny_generator, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        make(tmp_path / "s.zarr", tiny_generator, **{"names": None, "class_names": None, "sampler": "ddim", **options})
    assert not (tmp_path / "s.zarr").exists()


def test_defaults_are_the_pipelines_and_own_classes_have_no_default_teacher(families, names_file, tmp_path):
    info = describe_generator(str(families["StableDiffusion3Pipeline"]), class_names=NAMES)
    assert (info.default_steps, info.default_guidance, info.image_size, info.num_classes) == (28, 2.0, 32, 3)
    store = make(
        tmp_path / "s.zarr", families["StableDiffusion3Pipeline"], names_file, teacher=None, images=4, classes="1-2"
    )
    assert store.labels == {} and store.recipe["guidance"] == 2.0 and set(store.class_ids[:].tolist()) == {0, 1}
    with pytest.raises(UsageError, match="no default teacher: name one with --teacher"):
        label(store.path, LabelOptions(), HERE, Silent())


def test_chosen_names_are_the_stores_classes(stable_diffusion, names_file, teacher, tmp_path):
    whole = make(tmp_path / "whole.zarr", stable_diffusion, names_file)
    chosen = {"classes": f"{NAMES[2]},0", "teacher": teacher}  # a teacher of the three names, by number
    store = make(tmp_path / "s.zarr", stable_diffusion, names_file, images=12, **chosen)
    assert store.class_names == [NAMES[0], NAMES[2]] and set(store.class_ids[:].tolist()) == {0, 1}
    assert (store.recipe["classes"], store.recipe["num_classes"]) == ([0, 2], 3)
    assert store.labels["animals-resnet"].outputs == [0, 2]
    same = [i for i in range(12) if whole.class_ids[i] == (0, 2)[store.class_ids[i]]]
    assert len(same) > 1
    for i in same:
        np.testing.assert_array_equal(store.images[i], whole.images[i])

    make(store.path, stable_diffusion, names_file, images=12, **chosen)  # the same command again
    generate(store.path, ImageOptions(images=20), LabelOptions(), HERE, Silent())
    assert verify(store.path, regenerate=1.0, device="cpu", display=Silent()).sound
    with pytest.raises(MismatchError, match=r"classes: the store has \[0, 2\], you asked for \[0, 1\]"):
        make(store.path, stable_diffusion, names_file, classes="0-1")
    with pytest.raises(UsageError, match="--classes chooses among the names of --class-names: give both to go on with"):
        generate(store.path, ImageOptions(classes="0"), LabelOptions(), HERE, Silent())
    options = recipe_of(open_store(store.path))
    assert options["class-names"] == store.class_names and "classes" not in options


def test_chosen_classes_of_imagenet_have_a_default_teacher(stable_diffusion, tmp_path):
    def wanted(**options):
        options = ImageOptions(generator=str(stable_diffusion), class_names="imagenet", **options)
        return resolve_images(str(tmp_path / "s.zarr"), options, "cpu", describe_generator)

    some = wanted(classes="hen,n01440764")
    assert some.classes.names == ("tench, Tinca tinca", "hen") and some.num_images == 400
    assert some.defaults["teacher"] == wanted().defaults["teacher"] == "resnet18.tv_in1k"


@pytest.mark.parametrize(
    ("kind", "guidance"), [("StableDiffusionPipeline", 2.0), ("PixArtSigmaPipeline", 2.0), ("FluxPipeline", 3.5)]
)
def test_guidance_is_dm_kds_by_default_unless_it_is_built_in(families, kind, guidance):
    assert describe_generator(str(families[kind]), class_names=NAMES).default_guidance == guidance


@pytest.mark.parametrize(
    ("name", "scheduler", "sign"),
    [
        ("sdxl-turbo", {}, "it is called sdxl-turbo"),
        (
            "mine",
            {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
            "trailing timesteps",
        ),
        ("turbocharged", {}, None),
        ("mine", {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "leading"}, None),
    ],
)
def test_a_distilled_checkpoint_is_recognised_sampled_so_and_told(
    families, names_file, tmp_path, name, scheduler, sign
):
    folder = shutil.copytree(families["StableDiffusionPipeline"], tmp_path / name)
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | scheduler))
    told: list[str] = []

    class Told(Silent):
        def notice(self, text):
            told.append(text)

    options = ImageOptions(
        str(folder), 3, class_names=str(names_file), block_size=4, sub_batch=4, steps=2 if not sign else None
    )
    store, _ = generate(str(tmp_path / "s.zarr"), options, LabelOptions(("none",)), HERE, Told())
    notices = [sentence for sentence in told if "distilled" in sentence]
    if sign is None:
        assert not notices and store.recipe["guidance"] == 2.0
        return
    assert (store.recipe["steps"], store.recipe["guidance"]) == (4, 0.0)
    assert len(notices) == 1 and sign in notices[0] and "4 steps at guidance 0" in notices[0]
    assert describe_generator(str(folder), class_names=NAMES).notices(ImageOptions(steps=1, guidance="0")) == []


def test_unless_told_each_class_gets_as_many_images_as_dm_kds():
    from dmkd.generators.defaults import text_to_image_defaults
    from dmkd.recipes.class_names import class_names_from

    imagenet = class_names_from("imagenet")
    assert text_to_image_defaults(4, 1.0, imagenet)["images"] == 200_000
    assert text_to_image_defaults(4, 1.0, imagenet)["teacher"] == "resnet18.tv_in1k"
    assert text_to_image_defaults(4, 1.0, NAMES[:2]) | {"views": ""} == {
        "sampler": "pipeline", "steps": 4, "guidance": 1.0, "images": 400, "teacher": "none", "views": ""
    }  # fmt: skip


def test_guidance_that_is_built_in_heeds_no_negative_prompt(families, names_file, tmp_path):
    assert describe_generator(str(families["FluxPipeline"]), class_names=NAMES).image_size == 512, (
        "128 latents of 4 pixels"
    )
    with pytest.raises(UsageError, match="a FluxPipeline has its guidance built in"):
        make(tmp_path / "s.zarr", families["FluxPipeline"], names_file, negative_prompt="blurry", image_size=32)


def test_a_teacher_of_other_classes_is_refused(stable_diffusion, names_file, tiny_teacher, tmp_path):
    with pytest.raises(UsageError, match="knows 10 classes and generator .* makes 3"):
        make(tmp_path / "s.zarr", stable_diffusion, names_file, teacher=tiny_teacher)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "unipc"])
def test_other_samplers_replace_the_pipelines_where_they_fit(families, sampler):
    generator = load(families["StableDiffusionPipeline"])
    images = sample(generator, [0, 1], [5, 6], sampler=sampler, steps=4)
    assert (images != sample(generator, [0, 1], [5, 6], steps=4)).any()
    if sampler != "ddim":
        assert make_text_scheduler(generator.pipe.scheduler.config | {"_class_name": "PNDMScheduler"}, sampler)
    with pytest.raises(UsageError, match=f"--sampler {sampler.replace('+', '.')} does not fit this generator"):
        sample(load(families["StableDiffusion3Pipeline"]), [0], [5], sampler=sampler)


def test_another_image_size_is_made(stable_diffusion):
    assert sample(load(stable_diffusion, image_size=48), [0], [5]).shape == (1, 48, 48, 3)


def test_noise_that_no_seed_makes_is_refused(families, tmp_path, monkeypatch):
    folder = shutil.copytree(families["StableDiffusion3Pipeline"], tmp_path / "sd3")
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({**config, "stochastic_sampling": True}))
    with pytest.raises(UsageError, match="draws noise that does not come from the image's seed"):
        make(tmp_path / "s.zarr", folder, None, class_names="imagenet")
    # What no list knows of is found out when it happens.
    generator = load(families["StableDiffusion3Pipeline"])
    step = type(generator.pipe.scheduler).step

    def noisy(self, output, timestep, latents, **options):
        return step(self, output + torch.randn_like(output), timestep, latents, **options)

    monkeypatch.setattr(type(generator.pipe.scheduler), "step", noisy)
    with pytest.raises(DmkdError, match="draws noise that does not come from the image's seed"):
        sample(generator, [0], [5])


def test_the_hash_is_of_all_that_pixels_depend_on_and_of_no_more(stable_diffusion, tmp_path):
    folder = shutil.copytree(stable_diffusion, tmp_path / "sd")
    first = describe_generator(str(folder), class_names=NAMES).sha256
    (folder / "README.md").write_text("about")
    (folder / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not loaded")
    assert describe_generator(str(folder), class_names=("a", "b")).sha256 == first
    for name in (
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
    ):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert describe_generator(str(folder), class_names=NAMES).sha256 != first
        (folder / name).write_bytes(content)
    scheduler = folder / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.013"))
    assert describe_generator(str(folder), class_names=NAMES).sha256 != first


def test_half_precision_files_are_used_where_there_are_no_others(stable_diffusion, tmp_path):
    folder = shutil.copytree(stable_diffusion, tmp_path / "sd")
    for name in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        (folder / f"{name}.safetensors").rename(folder / f"{name}.fp16.safetensors")
    images = sample(load(folder), [0, 1], [5, 6])
    np.testing.assert_array_equal(images, sample(load(stable_diffusion), [0, 1], [5, 6]))


def test_folders_that_are_no_such_pipeline_are_told_in_one_sentence(families, tmp_path):
    def refused(message, change=None, remove=None, error=UsageError):
        folder = shutil.copytree(families["StableDiffusionPipeline"], tmp_path / "broken")
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, **(change or {})}))
        if remove:
            (folder / remove).unlink()
        with pytest.raises(error, match=message):
            load(folder)
        shutil.rmtree(folder)

    refused("is a DreamPipeline, which diffusers .* does not know", {"_class_name": "DreamPipeline"})
    refused("one image from a prompt", {"_class_name": "StableDiffusionImg2ImgPipeline"})
    refused("one image from a prompt", {"_class_name": "TextToVideoSDPipeline"})
    refused("The unet of .* is a Net of my_code; dmkd only loads what", {"unet": ["my_code", "Net"]})
    refused("is a NewNet, which the installed diffusers does not know", {"unet": ["diffusers", "NewNet"]})
    refused("lacks unet/diffusion_pytorch_model", remove="unet/diffusion_pytorch_model.safetensors")
    refused("lacks tokenizer_2/", {"tokenizer_2": ["transformers", "CLIPTokenizer"]})


def test_damaged_and_incomplete_weights_are_told(stable_diffusion, tmp_path):
    folder = shutil.copytree(stable_diffusion, tmp_path / "sd")
    weights = folder / "text_encoder/model.safetensors"
    tensors = load_file(weights)
    del tensors[next(name for name in tensors if "fc1.weight" in name)]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(DmkdError, match="text_encoder are incomplete: 1 tensors are missing, such as .*fc1.weight"):
        load(folder)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DmkdError, match="text_encoder can't be loaded"):
        load(folder)


def test_pixels_that_are_not_finite_are_refused(stable_diffusion):
    generator = load(stable_diffusion)
    with torch.no_grad():
        next(generator.pipe.vae.decoder.conv_out.parameters()).fill_(torch.inf)
    with pytest.raises(DmkdError, match="pixels that are not finite"):
        sample(generator, [0], [5])


def test_without_transformers_one_sentence_says_how_to_get_it(stable_diffusion, names_file, tmp_path, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "transformers" else real(name, *rest)
    )
    with pytest.raises(UsageError, match=r"needed: pip install 'dmkd\[t2i\]'"):
        make(tmp_path / "s.zarr", stable_diffusion, names_file)


def test_classes_of_one_name_are_pointed_out(stable_diffusion, tmp_path):
    class Loud(Silent):
        said = ()

        def notice(self, text):
            Loud.said += (text,)

    (tmp_path / "names.txt").write_text("crane\ndog\ncrane, machine\n")
    options = ImageOptions(str(stable_diffusion), 2, class_names=str(tmp_path / "names.txt"), steps=1, sub_batch=2)
    generate(str(tmp_path / "s.zarr"), options, LabelOptions(("none",)), HERE, Loud())
    assert any("Classes 0, 2 are all called 'crane'" in text for text in Loud.said)


def test_from_words_to_a_student(families, names_file, teacher, tmp_path, monkeypatch):
    def dmkd(*arguments):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DMKD_STORE", raising=False)
    # fmt: off
    shown = dmkd("generate", "--store", "s.zarr", "--generator", families["StableDiffusionXLPipeline"], "--class-names",
                 names_file, "--prompt", "a photo of a {}", "--prompt", "a sketch of a {}", "--steps", 2, "--guidance", 0,
                 "--images", 24, "--block-size", 8, "--device", "cpu")
    # fmt: on
    assert "24 of 24, 32x32, complete" in shown and "'a photo of a {}' and 1 more" in shown
    dmkd("label", "--teacher", teacher, "--views", "rrc:2", "--device", "cpu")
    facts = json.loads(dmkd("inspect", "--json"))
    assert facts["recipe"]["prompts"] == ["a photo of a {}", "a sketch of a {}"] and facts["complete"]
    report = json.loads(
        dmkd("verify", "s.zarr", "--regenerate", "0.3", "--rerun-teacher", "0.3", "--json", "--device", "cpu")
    )
    assert report["sound"] and report["regenerate"]["images"] == 8 and report["regenerate"]["max_difference"] == 0
    dmkd("train-student", "--student", "test_resnet", "--epochs", 1, "--device", "cpu", "--out", "student")
    assert open_store("s.zarr").class_names == list(NAMES)
    assert json.loads(Path("student/student/config.json").read_text())["label_names"] == list(NAMES)
