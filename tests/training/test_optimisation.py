"""What the optimiser is told: which parameters decay, and how far a moving average of the weights gets."""

import pytest
from conftest import filled_store

from dmkd.classifiers.students import create_student
from dmkd.loading import Loader
from dmkd.stores import DmkdError
from dmkd.training.objective import Objective
from dmkd.training.optimisation import Optimisation, create_optimizer
from dmkd.training.run_length import RunLength
from dmkd.training.team import Team
from dmkd.training.training_recipe import resolve_training

SPARED = {"model.pos_embed", "model.cls_token"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("optimisation") / "s.zarr", num_images=32, image_shape=(32, 32, 3))


def objective_of(store, **options):
    _, recipe = resolve_training(store, {"student": "test_vit", "epochs": 1, "batch_size": 8, "lr": 0.01, **options})
    model = create_student("test_vit", 10, image_size=32)
    preprocessing = {"input_size": 32, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    loader = Loader(store, labels={"teacher": 1.0}, batch_size=8)
    return recipe, Objective(recipe, loader.decoder, model, preprocessing)


def decaying(store, **options):
    recipe, objective = objective_of(store, **options)
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    groups = create_optimizer(recipe, objective).param_groups
    return {names[id(parameter)] for group in groups if group["weight_decay"] for parameter in group["params"]}


def test_adamw_spares_what_the_students_authors_spare(store):
    found = decaying(store, optimizer="adamw", weight_decay=0.05)
    assert "model.patch_embed.proj.weight" in found and not found & SPARED
    assert not any(name.endswith("bias") for name in found)


def test_sgd_decays_biases_and_norms_too_as_dm_kds_does(store):
    found = decaying(store, optimizer="sgd", weight_decay=1e-4)
    assert {"model.norm.weight", "model.head.bias"} <= found and not found & SPARED


def test_a_run_whose_parameters_were_grouped_otherwise_is_refused_in_a_sentence(store):
    recipe, objective = objective_of(store, optimizer="adamw", weight_decay=0.05)
    optimisation = Optimisation(recipe, objective, Team("cpu"), "float32", RunLength(4, 4, 0))
    state = optimisation.state_dict()
    moved = state["optimizer"]["param_groups"][0]["params"].pop()
    state["optimizer"]["param_groups"][1]["params"].append(moved)
    with pytest.raises(DmkdError, match="begun by another version of dmkd.*give another --out"):
        optimisation.load_state_dict(state)


@pytest.mark.parametrize(("updates", "reached"), [(78_200, 0.99945), (234_600, 0.99974), (10**6 + 2, 0.9999)])
def test_a_moving_average_gets_as_far_as_the_manual_says(store, updates, reached):
    recipe, objective = objective_of(store, ema=0.9999)
    optimisation = Optimisation(recipe, objective, Team("cpu"), "float32", RunLength(4, 4, 0))
    assert optimisation.average.get_decay(updates) == pytest.approx(reached, abs=5e-6)
