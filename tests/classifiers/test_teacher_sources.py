"""Teachers from where people have them: torchvision, transformers, functions of one's own, registered names."""

import json
import pickle
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from foreign_teachers import SMALL, enter_own_folder, of_ten, register, save_hf_resnet
from PIL import Image

from dmkd.classifiers.load import configured_classifier, load_classifier
from dmkd.classifiers.sources import KINDS, parse_classifier
from dmkd.classifiers.sources.image_processor import preprocessing_of
from dmkd.classifiers.sources.preprocessing import of_torchvision
from dmkd.classifiers.teachers import classes_of_classifier
from dmkd.cli.main import main
from dmkd.recipes.class_list import imagenet_classes
from dmkd.stores import DmkdError, UsageError
from dmkd.views import canonical_box
from dmkd.views.render import normalise, render


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("open('ran', 'w')",)


def photo(size: int, height: int | None = None) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height or size, size, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise[::4, ::4]).resize((size, height or size), Image.Resampling.BICUBIC)).copy()


def canonical(image: np.ndarray, fed) -> torch.Tensor:
    box = canonical_box(image.shape[:2], fed.input_size, fed.crop_pct, fed.crop_mode)
    view = np.array([[*box, 0]], np.float32)
    return render(image[None], view, size=fed.input_size, interpolation=fed.interpolation)


# torchvision


@pytest.mark.parametrize(
    "weights",
    ["ResNet18_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2", "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1"],
)
def test_the_evaluation_view_is_torchvisions_own(weights):
    transforms = torchvision.models.get_weight(weights).transforms()
    for image in (photo(256), photo(400, 300)):
        fed = of_torchvision(transforms)
        theirs = transforms(Image.fromarray(image))
        apart = (normalise(canonical(image, fed), fed.mean, fed.std)[0] - theirs) * torch.tensor(fed.std)[:, None, None]
        assert (apart.abs().max() * 255).item() <= 1.001


def test_torchvisions_models_are_what_torchvision_makes_of_them(tmp_path):
    model = of_ten(SMALL, tmp_path / "mine.pth")
    teacher = load_classifier(f"torchvision:{SMALL}={tmp_path / 'mine.pth'}")
    assert (teacher.name, teacher.num_classes, teacher.class_names) == ("mine", 10, None)
    pixels = torch.from_numpy(photo(224)).permute(2, 0, 1)[None]
    theirs = model(normalise(pixels, teacher.mean, teacher.std))
    torch.testing.assert_close(teacher.logits(pixels), theirs)
    weight, bias = teacher.head()
    assert weight.shape == (10, 1024) and not teacher.fixed_input_size
    torch.testing.assert_close(teacher.features(pixels) @ torch.from_numpy(weight).T + torch.from_numpy(bias), theirs)
    planned = configured_classifier(f"torchvision:{SMALL}={tmp_path / 'mine.pth'}")
    assert planned.to_json() == {**teacher.to_json(), "sha256": ""} and next(planned.model.parameters()).is_meta


def test_a_model_that_ends_in_no_linear_layer_labels_all_the_same(tmp_path):
    of_ten("squeezenet1_1", tmp_path / "mine.pth")
    teacher = load_classifier(f"torchvision:squeezenet1_1={tmp_path / 'mine.pth'}")
    assert teacher.num_classes == 10 and teacher.head() is None


@pytest.mark.parametrize("name", ["regnet_y_400mf", "vit_h_14", "inception_v3"])
def test_models_of_torchvision_are_planned_without_their_weights(name):
    planned = configured_classifier(f"torchvision:{name}")
    assert planned.num_classes == 1000 and planned.model.get_classifier() is not None
    assert all(parameter.is_meta for parameter in planned.model.parameters())
    assert planned.fixed_input_size == (planned.input_size == 518) == (name == "vit_h_14")


@pytest.fixture
def torch_cache(tmp_path, monkeypatch):
    """torch.hub's folder of files, and no network."""

    def unreachable(url, *_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def file_of(name: str) -> str:
    return torchvision.models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]


def test_torchvisions_weights_are_those_of_imagenets_classes(torch_cache, capsys):
    torch.save(torchvision.models.get_model(SMALL).state_dict(), torch_cache / file_of(SMALL))
    teacher = load_classifier(f"torchvision:{SMALL}")
    assert teacher.architecture == f"torchvision:{SMALL}@IMAGENET1K_V1" and teacher.class_names[0] == "tench"
    assert classes_of_classifier(teacher).wnids == imagenet_classes().wnids
    tagged = load_classifier(f"torchvision:{SMALL}@IMAGENET1K_V1")
    assert tagged.sha256 == teacher.sha256 and tagged.name == f"{SMALL}.IMAGENET1K_V1"


def test_weights_that_can_not_be_fetched_are_told_of_in_one_sentence(torch_cache, capsys):
    with pytest.raises(DmkdError, match=r"could not be downloaded \(URLError.*into .*checkpoints, or set TORCH_HOME"):
        load_classifier(f"torchvision:{SMALL}")
    assert capsys.readouterr().out == ""


def test_no_code_in_torchvisions_cache_is_run(torch_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (torch_cache / file_of(SMALL)).write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(DmkdError, match="contains code or objects other than weights"):
        load_classifier(f"torchvision:{SMALL}")
    torch.save({"state_dict": Evil()}, torch_cache / file_of(SMALL))
    with pytest.raises(DmkdError, match="contains code or objects other than weights"):
        load_classifier(f"torchvision:{SMALL}={torch_cache / file_of(SMALL)}")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:resnet51", "torchvision has no classifier 'resnet51'; did you mean resnet"),
        ("torchvision:resnet50@V3", "no weights 'V3' of resnet50; there are IMAGENET1K_V1, IMAGENET1K_V2"),
        ("torchvision:resnet50=missing.pth", "There is no checkpoint missing.pth"),
    ],
)
def test_what_torchvision_does_not_have_is_refused(source, message):
    with pytest.raises(UsageError, match=message):
        load_classifier(source)


# transformers


@pytest.fixture(scope="module")
def hf_resnet(tmp_path_factory) -> Path:
    return save_hf_resnet(tmp_path_factory.mktemp("hf") / "tiny-hf")


def test_the_logits_are_those_of_transformers(hf_resnet):
    import transformers

    teacher = load_classifier(f"hf:{hf_resnet}")
    assert teacher.architecture == "ResNetForImageClassification" and teacher.class_names[:2] == ["class 9", "name 8"]
    assert (teacher.name, teacher.input_size, teacher.crop_pct) == ("tiny-hf", 32, pytest.approx(32 / 36))
    image = photo(36)  # nothing is resized, so that pixels are the same to the bit
    model = transformers.AutoModelForImageClassification.from_pretrained(hf_resnet).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(hf_resnet)
    with torch.inference_mode():
        theirs = model(**processor(Image.fromarray(image), return_tensors="pt")).logits
    ours = teacher.logits(canonical(image, teacher))
    torch.testing.assert_close(ours, theirs)
    assert teacher.head()[0].shape == (10, 16)
    planned = configured_classifier(f"hf:{hf_resnet}")
    assert planned.to_json() == {**teacher.to_json(), "sha256": ""}


@pytest.mark.parametrize(
    ("processor", "options", "expected"),
    [
        ("ViTImageProcessor", {}, (224, "bilinear", 1.0, "squash")),
        (
            "ConvNextImageProcessor",
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
            (224, "bicubic", 0.875, "center"),
        ),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}, (384, "bicubic", 1.0, "squash")),
        ("DeiTImageProcessor", {}, (224, "bicubic", 0.875, "squash")),
        ("BitImageProcessor", {}, (224, "bicubic", 1.0, "center")),
        ("MobileNetV2ImageProcessor", {}, (224, "bilinear", 0.875, "center")),
        ("ViTImageProcessor", {"do_rescale": False}, "grey levels"),
        ("ViTImageProcessor", {"do_resize": False}, "150x200 pixels"),
        ("EfficientNetImageProcessor", {}, "grey levels"),
        ("MobileViTImageProcessor", {}, "would pad"),
        ("BitImageProcessor", {"do_center_crop": False}, "cuts nothing off"),
    ],
)
def test_image_processors_are_followed_or_refused(processor, options, expected):
    transformers = pytest.importorskip("transformers", reason="needs transformers (pip install 'dmkd[t2i]')")
    made = getattr(transformers, processor)(**options)
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=rf"The image processor of here does more than .*{expected}"):
            preprocessing_of(made, "here")
    else:
        fed = preprocessing_of(made, "here")
        assert (fed.input_size, fed.interpolation, fed.crop_pct, fed.crop_mode) == expected


def test_a_model_without_a_trained_last_layer_is_refused(tmp_path):
    import transformers

    folder = save_hf_resnet(tmp_path / "backbone")
    transformers.ResNetModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(DmkdError, match=r"lack 2 of the classifier's, such as classifier"):
        load_classifier(f"hf:{folder}")


def test_no_code_of_a_hub_folder_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save_hf_resnet(tmp_path / "evil")
    (folder / "model.safetensors").unlink()
    torch.save(Evil(), folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"lacks model.safetensors"):
        load_classifier("hf:evil")
    config = json.loads((folder / "config.json").read_text())
    theirs = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of", "auto_map": theirs}))
    (folder / "code.py").write_text("open('ran', 'w')")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"The configuration of hf:evil can't be read"):
        load_classifier("hf:evil")
    assert not Path("ran").exists()


# functions of one's own


@pytest.fixture
def own(tmp_path, monkeypatch):
    return enter_own_folder(tmp_path, monkeypatch)


def test_a_function_of_ones_own_is_a_teacher(own):
    teacher = load_classifier("own_teachers:teacher")
    assert (teacher.name, teacher.num_classes, teacher.class_names[0]) == ("own_teachers.teacher", 10, "class 9")
    assert (teacher.input_size, teacher.crop_pct, teacher.mean, teacher.fixed_input_size) == (
        32,
        1.0,
        (0.5,) * 3,
        False,
    )
    pixels = torch.from_numpy(photo(32)).permute(2, 0, 1)[None]
    torch.testing.assert_close(teacher.logits(pixels), sys.modules["own_teachers"].net()(pixels / 127.5 - 1))
    assert teacher.head()[0].shape == (10, 32)
    assert load_classifier("own_teachers:teacher").sha256 == teacher.sha256
    assert next(configured_classifier("own_teachers:teacher").model.parameters()).is_meta


def test_the_manuals_example_is_a_teacher(own):
    manual = (Path(__file__).parents[2] / "docs/recipes/own-teacher.md").read_text()
    (own / "pets.py").write_text(manual.split("```python\n# pets.py\n")[1].split("```")[0])
    (own / "pets.txt").write_text("".join(f"pet {number}\n" for number in range(37)))
    torch.save(torchvision.models.resnet18(num_classes=37).state_dict(), own / "pets.pth")
    teacher = load_classifier("pets:teacher")
    assert (teacher.name, teacher.class_names[36], teacher.head()[0].shape) == ("pets.teacher", "pet 36", (37, 512))


def test_preprocessing_may_be_left_out_or_be_timms_or_torchvisions(own):
    fed = [load_classifier(f"own_teachers:{name}") for name in ("plain", "like_timm", "like_torchvision")]
    assert [(one.input_size, one.interpolation, round(one.crop_pct, 3)) for one in fed] == [
        (224, "bilinear", 0.875),
        (48, "bicubic", 0.875),
        (224, "bilinear", 0.966),
    ]


def test_a_module_that_is_fed_channels_last_on_a_gpu_may_not_be_ones_own(own, monkeypatch):
    seen = []
    teacher = load_classifier("own_teachers:teacher")
    teacher.model.model.body[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    on_gpu = teacher._layout(torch.device("cuda"))
    monkeypatch.setattr(teacher, "_layout", lambda device: on_gpu)
    teacher.logits(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert seen == [True]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("unknown_key", "its preprocessing has no 'size'; it may have input_size"),
        ("unknown_interpolation", "its interpolation 'best' is unknown; there are"),
        ("names", "has 10 outputs and 2 class names"),
        ("softmax", "makes probabilities; return the logits"),
        ("maps", r"makes torch.float32 \(2, 10, 222, 222\) of 2 images; a classifier makes logits"),
        ("restless", "says something else of the same images each time"),
        ("infinite", "makes logits that are not finite"),
        ("nothing", "returned NoneType; it must return a torch.nn.Module"),
        ("failing", "failed: OSError: the disk is full"),
        ("absent", "no function called 'absent'"),
    ],
)
def test_what_is_no_teacher_is_refused_at_the_start(own, function, message):
    with pytest.raises(UsageError, match=message) as refused:
        load_classifier(f"own_teachers:{function}")
    assert len(str(refused.value).splitlines()) == 1 and f"own_teachers:{function}" in str(refused.value)


def test_a_module_that_is_not_there_is_told_before_anything_is_loaded(own):
    done = CliRunner().invoke(main, ["label", "--store", "s.zarr", "--teacher", "own_teacher:net"])
    assert done.exit_code == 2


def test_prefixes_come_before_modules():
    texts = ("torchvision:resnet50", "hf:a/b", "hf-hub:a/b", "json:loads")
    kinds = [type(parse_classifier(text).kind).__name__ for text in texts]
    assert kinds == ["TorchvisionModel", "TransformersModel", "TimmHub", "OwnFunction"]


def test_installed_packages_register_teachers_under_a_name(own):
    register(own)
    teacher = load_classifier("pets-resnet")
    assert (teacher.name, teacher.num_classes) == ("pets-resnet", 10)
    assert "own_teachers:teacher, of pets 1.0" in CliRunner().invoke(main, ["teachers"]).output


# what there is


def test_every_kind_is_listed_and_nothing_is_loaded():
    code = "import sys; from dmkd.cli.main import main\n"
    code += "try: main(['teachers', '--json'], prog_name='dmkd')\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'timm', 'transformers', 'ray', 'zarr', 'rich'} & set(sys.modules)))"
    told, imported = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert imported == "[]"
    assert {one["teacher"] for one in json.loads(told)} >= {kind.example for kind in KINDS}


def test_a_library_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr("dmkd.classifiers.sources.importlib.util.find_spec", lambda name: None)
    listed = json.loads(CliRunner().invoke(main, ["teachers", "--json"]).output)
    assert {one["not_installed"] for one in listed if one["teacher"].startswith("hf:")} == {"transformers"}


def test_a_shell_offers_the_beginnings_of_names():
    from click.shell_completion import BashComplete

    found = BashComplete(main, {}, "dmkd", "_DMKD_COMPLETE").get_completions(["label", "--teacher"], "torch")
    assert [(item.value, item.type) for item in found] == [("torchvision:", "plain"), ("torch", "file")]
