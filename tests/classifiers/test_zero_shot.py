"""Zero-shot teachers, on tiny models of transformers with random weights."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_clip_models import save_tiny_clip

from dmkd.classifiers.classes_of_data import classes_of_data
from dmkd.classifiers.load import configured_classifier, load_classifier
from dmkd.recipes.class_list import ClassList, imagenet_classes
from dmkd.recipes.zero_shot import ClassPrompts, class_prompts, parse_teacher_prompts
from dmkd.stores import DmkdError, UsageError
from dmkd.views.render import normalise

NAMES = ("cat, felis catus", "golden_retriever", "fish")
TEMPLATES = ("a photo of a {}.", "a drawing of the {}.")
KINDS = ("clip", "siglip")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return {kind: save_tiny_clip(folder / f"tiny-{kind}", kind) for kind in KINDS}


def load(folder, templates=TEMPLATES[:1], names=NAMES, **options):
    return load_classifier(f"clip:{folder}", prompts=ClassPrompts(ClassList(names), tuple(templates)), **options)


def pixels(count=5, size=32):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, size, size)).astype(np.uint8))


def stock(folder, kind, classifier, texts):
    """transformers' own logits of the same pixels."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    padding = {"padding": "max_length", "max_length": 64} if kind == "siglip" else {"padding": True}
    tokens = tokenizer(texts, return_tensors="pt", **padding)
    with torch.no_grad():
        fed = normalise(pixels(), classifier.mean, classifier.std)
        return model(input_ids=tokens["input_ids"], pixel_values=fed).logits_per_image


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_transformers_own(models, kind):
    classifier = load(models[kind])
    texts = ["a photo of a cat.", "a photo of a golden retriever.", "a photo of a fish."]
    expected = stock(models[kind], kind, classifier, texts)
    assert expected.std() > 0.1
    torch.testing.assert_close(classifier.logits(pixels()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_in_a_linear_layer_over_its_features(models, kind):
    classifier = load(models[kind], TEMPLATES)
    features = classifier.features(pixels()).numpy()
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    weight, bias = classifier.head()
    np.testing.assert_allclose(features @ weight.T + bias, classifier.logits(pixels()).numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(weight, axis=1), np.exp(3.0), rtol=1e-5)
    assert set(bias) == {-5.0 if kind == "siglip" else 0.0}


def test_a_class_is_the_mean_of_its_texts_each_at_length_one(models):
    both, first, second = (load(models["clip"], those).head()[0] for those in (TEMPLATES, TEMPLATES[:1], TEMPLATES[1:]))
    mean = first + second
    np.testing.assert_allclose(both, mean / np.linalg.norm(mean, axis=1, keepdims=True) * np.exp(3.0), rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_last_layer_is_the_same_whoever_asks_first(models, precision):
    one, other = load(models["clip"], precision=precision), load(models["clip"])
    one.logits(pixels())
    np.testing.assert_array_equal(one.head()[0], other.head()[0])


def test_its_sha256_is_of_both_towers_and_not_of_the_words(models, tmp_path):
    one, other = load(models["clip"]), load(models["clip"], TEMPLATES, ("a", "b"))
    assert one.sha256 == other.sha256
    assert one.to_json()["prompts"]["templates"] == [TEMPLATES[0]]
    assert one.to_json()["prompts"]["class_names_sha256"] != other.to_json()["prompts"]["class_names_sha256"]
    assert load(save_tiny_clip(tmp_path / "other", seed=1)).sha256 != one.sha256
    one.logits(pixels())
    names = [name for name, _ in one.model.named_parameters()]
    assert not any("text" in name for name in names), "the text tower is dropped when it has been read"


def test_preprocessing_is_its_image_processors(models, tmp_path):
    clip, siglip = load(models["clip"]), load(models["siglip"])
    assert (clip.input_size, clip.crop_pct, clip.crop_mode, clip.interpolation) == (32, 1.0, "center", "bicubic")
    assert (siglip.crop_mode, siglip.mean, siglip.std) == ("squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    larger = load(save_tiny_clip(tmp_path / "larger", size={"shortest_edge": 40}, resample=2))
    assert (larger.crop_pct, larger.interpolation) == (0.8, "bilinear")


def test_its_shape_is_known_without_weights(models):
    from dmkd.making.flops import classifier_flops

    for kind, width in (("clip", 24), ("siglip", 16)):
        prompts = ClassPrompts(ClassList(NAMES), TEMPLATES)
        shape = configured_classifier(f"clip:{models[kind]}", prompts=prompts)
        assert shape.model.get_classifier().weight.shape == (3, width)
        assert classifier_flops(shape, 32) > 1000


def test_weights_of_older_folders_are_read_as_weights_alone(models, tmp_path):
    folder = save_tiny_clip(tmp_path / "old")
    expected = load(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert load(folder).sha256 == expected.sha256


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_hostile_checkpoint_runs_nothing(tmp_path):
    folder = save_tiny_clip(tmp_path / "hostile")
    (folder / "model.safetensors").unlink()
    for save in (torch.save, lambda what, file: file.write_bytes(pickle.dumps(what, 2))):
        save({"logit_scale": Hostile(tmp_path / "ran")}, folder / "pytorch_model.bin")
        with pytest.raises(DmkdError, match="code or objects other than weights, and dmkd does not run it"):
            load(folder)
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_model_is_not_run(tmp_path):
    folder = save_tiny_clip(tmp_path / "coded")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(
        json.dumps(config | {"model_type": "evil", "auto_map": {"AutoModel": "evil.E", "AutoConfig": "evil.C"}})
    )
    with pytest.raises(UsageError, match="model of type evil"):
        load(folder)
    file.write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.E", "AutoConfig": "evil.C"}}))
    load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "a model of type bert"),
        (lambda f: (f / "config.json").write_text("[]"), "no model of transformers"),
        (lambda f: (f / "config.json").unlink(), "lacks config.json"),
        (
            lambda f: (f / "preprocessor_config.json").unlink(),
            "lacks preprocessor_config.json or processor_config.json",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda f: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")], "lacks spiece.model"),
        (lambda f: (f / "model.safetensors").write_bytes(b"damaged"), "could not be loaded"),
    ],
)
def test_a_folder_that_is_no_such_model_is_refused(tmp_path, change, said):
    folder = save_tiny_clip(tmp_path / "broken")
    change(folder)
    with pytest.raises(DmkdError, match=said) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_weights_that_lack_a_tower_are_refused(tmp_path):
    from safetensors.torch import save_file

    folder = save_tiny_clip(tmp_path / "half")
    state = {key: value for key, value in load_file(folder / "model.safetensors").items() if "text_model" not in key}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DmkdError, match="lack .* of the model's"):
        load(folder)


def test_images_that_are_no_square_views_are_refused(tmp_path):
    folder = save_tiny_clip(tmp_path / "wide", crop_size={"height": 32, "width": 64})
    with pytest.raises(UsageError, match="dmkd's views show nothing else"):
        load(folder)
    folder = save_tiny_clip(tmp_path / "odd", crop_size={"height": 24, "width": 24})
    with pytest.raises(UsageError, match="24 and of 32 pixels"):
        load(folder)


def test_what_it_is_told_of_classes():
    animals = ClassList(("cat, felis catus", "golden_retriever"))
    assert class_prompts(animals, None, "x has").of_class(0) == ["a photo of a cat."]
    assert class_prompts(animals, ["{}", "my {}"], "x has").of_class(1) == ["golden retriever", "my golden retriever"]
    with pytest.raises(UsageError, match="class 1 of those that x has has none"):
        class_prompts(ClassList(("cat", ", dog")), None, "x has")
    for names in (("0", "1"), ("class 0", "class 1")):
        with pytest.raises(UsageError, match="if they are numbers, say of what"):
            class_prompts(ClassList(names), None, "x has")
        assert class_prompts(ClassList(names), ["the digit {}"], "x has")


def test_templates(tmp_path):
    assert len(parse_teacher_prompts(["imagenet"])) == 80 == len(set(parse_teacher_prompts(["imagenet"])))
    (tmp_path / "t.txt").write_text("a {}\n\nthe {}\n")
    assert parse_teacher_prompts([f"@{tmp_path / 't.txt'}", "{}"]) == ("a {}", "the {}", "{}")
    with pytest.raises(UsageError, match="--teacher-prompt 'a photo' lacks {}"):
        parse_teacher_prompts(["a photo"])
    with pytest.raises(UsageError, match="--teacher-prompt: .*no.txt can't be read"):
        parse_teacher_prompts(["@no.txt"])


def test_classes_of_imagenet_keep_their_wordnet_ids(models):
    prompts = ClassPrompts(imagenet_classes().subset([3, 1]), TEMPLATES[:1])
    classifier = load_classifier(f"clip:{models['clip']}", prompts=prompts)
    assert classifier.wnids == [imagenet_classes().wnids[number] for number in (3, 1)]


def test_folders_that_bear_wordnet_ids_are_called_by_name(tmp_path):
    for name in ("n01443537", "n01440764", ".hidden"):
        (tmp_path / name).mkdir()
    found = classes_of_data(str(tmp_path))
    assert found.names[0].startswith("tench") and found.names[1].startswith("goldfish")
    assert found.wnids == ("n01440764", "n01443537")
