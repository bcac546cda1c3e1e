"""From a batch on the GPU to new weights nothing makes the CPU wait for the GPU: shown without one."""

import copy

import numpy as np
import pytest
import torch
from absent_gpu import absent_gpu, to_absent_gpu
from conftest import CLASS_NAMES, TEACHER

from dmkd.classifiers.students import create_student, preprocessing_of
from dmkd.loading.batch import Batch
from dmkd.loading.decoding import BatchDecoder
from dmkd.loading.torch_codecs import LabelDecoder
from dmkd.runtime.accelerators import upload
from dmkd.stores import create_store, parse_codec
from dmkd.training.objective import Objective
from dmkd.training.optimisation import Optimisation
from dmkd.training.run_length import run_length
from dmkd.training.sources import open_loader
from dmkd.training.team import Team
from dmkd.training.training_recipe import resolve_training
from dmkd.views import draw_views, parse_policy

CODECS = ("float16", "uint8", "features", "klt:0.5", "topk:3")
IMAGES, SIZE, WIDTH = 32, 32, 12


@pytest.fixture(scope="module")
def store_of(tmp_path_factory):
    """A store of images whose two views are drawn as a policy says, with labels in each codec."""
    made = {}

    def store(views):
        if views not in made:
            made[views] = fill(tmp_path_factory.mktemp("no_waiting") / "s.zarr", parse_policy(views))
        return made[views]

    return store


def fill(path, policy):
    rng = np.random.default_rng(0)
    features = rng.exponential(size=(IMAGES, 2, WIDTH)).astype(np.float32)
    weight = rng.normal(size=(10, WIDTH)).astype(np.float32)
    bias = np.zeros(10, np.float32)
    logits = features @ weight.T
    store = create_store(
        str(path),
        recipe={"generator": "none"},
        num_images=IMAGES,
        image_shape=(SIZE, SIZE, 3),
        class_names=CLASS_NAMES,
        block_size=IMAGES,
    )
    description = {"size": 32, "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
    description |= {"policy": policy.to_json()}
    store.add_view_set("views", 2, policy.components, description)
    for name in CODECS:
        codec = parse_codec(name)
        label_set = {"teacher": TEACHER, "source": "t", "view_set": "views", "codec": codec, "num_classes": 10}
        store.add_label_set(codec.name, **label_set)
        if codec.needs:
            constants = codec.fit(10, sample=logits.reshape(-1, 10), weight=weight, bias=bias)
            store.fit_label_set(codec.name, constants)
    views = draw_views(
        policy,
        0,
        np.arange(IMAGES),
        canonical=(0.0, 0.0, 1.0, 1.0),
        first=False,
        image_size=(SIZE, SIZE),
        output_size=32,
        block_size=IMAGES,
        num_in_block=IMAGES,
    )
    said = {name: features if name == "features" else logits for name in store.labels}
    store.write_block(
        0,
        images=rng.integers(0, 256, (IMAGES, SIZE, SIZE, 3)).astype(np.uint8),
        class_ids=rng.integers(0, 10, IMAGES).astype(np.int32),
        views={"views": views},
        labels={name: (values, np.zeros((IMAGES, 3), np.float32)) for name, values in said.items()},
    )
    return store


def there(batch: Batch) -> Batch:
    """A batch of the CPU as the loader's threads would have brought it to the GPU."""
    decoders = {name: LabelDecoder(decoder.coder, "cuda") for name, decoder in batch.decoder.decoders.items()}
    decoder = BatchDecoder(batch.decoder.view_set, decoders, batch.decoder.weights, "cuda")
    moved = batch.with_tensors({name: upload(tensor, "cuda") for name, tensor in batch.tensors().items()})
    moved.decoder = decoder
    if moved.partners:
        moved.partners.decoder = decoder
    return moved


def waits_of_a_step(store, given, precision="bfloat16", kind="cuda"):
    """What a training step on the absent GPU waits for: all that a run does of it, but the loader's part."""
    options = {"student": "test_resnet", "batch_size": IMAGES, "epochs": 5, "lr": 0.1, "optimizer": "sgd"}
    _, recipe = resolve_training(store, {"labels": "float16", **options, **given})
    loader = open_loader(recipe, store, "cpu")
    layout = torch.channels_last if kind == "cuda" else torch.contiguous_format
    model = create_student(recipe.student, 10, 32).to(memory_format=layout)
    feeding = preprocessing_of(loader.view_set.attributes)
    objective = Objective(recipe, loader.decoder, model, feeding, layout).train()
    batches = list(loader.epoch(0))
    waits: list[str] = []
    with absent_gpu(waits, kind):
        to_absent_gpu(objective, trained=True)
        length = run_length(recipe, loader.num_images)
        optimisation = Optimisation(recipe, objective, Team("cuda"), precision, length)
        moved = [there(batch) for batch in batches]
        waits.clear()  # of the start
        sums, images = optimisation.step([(batch, batch is moved[-1]) for batch in moved], 0, IMAGES)
    assert images == IMAGES and sums.device.type == "cuda"
    assert all(weight.grad is not None for weight in objective.parameters())
    return waits


CASES = {
    **{f"kl, {codec}": {"labels": codec} for codec in ("float16", "uint8", "features", "klt", "topk")},
    "kl, two teachers": {"labels": "float16=2,klt"},
    "kl, cutmix": {"views": "rrc:2+cutmix"},
    "kl, mixup": {"views": "rrc:2+mixup"},
    "kl, padded": {"views": "pad:2"},
    "dkd": {"loss": "dkd"},
    "dkd, two teachers": {"loss": "dkd", "labels": "topk,features"},
    "hard": {"loss": "hard", "labels": None, "label_smoothing": 0.1},
    "hard, cutmix": {"loss": "hard", "labels": None, "views": "rrc:2+cutmix"},
    "hard, mixup": {"loss": "hard", "labels": None, "views": "rrc:2+mixup"},
    **{loss: {"loss": loss} for loss in ("argmax", "standardised", "dist", "gift")},
    "argmax, topk": {"loss": "argmax", "labels": "topk"},
    "kl to argmax, two teachers": {"labels": "topk,features", "hard_weight_end": 1.0, "hard_labels": "argmax"},
    "kl and hard, mixup": {"hard_weight": 0.5, "views": "rrc:2+mixup"},
    "features beside": {"labels": "features", "feature_weight": 1.0},
    "adamw, clipped and averaged": {"optimizer": "adamw", "lr": 1e-3, "clip_grad": 1.0, "ema": 0.99},
    "in parts": {"accumulate": 2},
    "drawn views": {"loss": "hard", "labels": None, "view_set": "rrc"},
    "a transformer": {"student": "test_vit", "student_args": {"patch_size": 4}},
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_step_waits_for_nothing(store_of, case):
    given = copy.deepcopy(CASES[case])
    assert waits_of_a_step(store_of(given.pop("views", "rrc:2")), given) == []


@pytest.mark.parametrize("case", CASES)
def test_apples_gpu_is_asked_for_nothing_that_it_does_not_have(store_of, case):
    given = copy.deepcopy(CASES[case])
    waits_of_a_step(store_of(given.pop("views", "rrc:2")), given, "off", "mps")
