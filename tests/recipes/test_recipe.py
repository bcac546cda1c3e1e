import dataclasses

import numpy as np
import pytest

from dmkd.recipes.class_choice import parse_classes
from dmkd.recipes.class_list import ClassList
from dmkd.recipes.guidance import parse_guidance, parse_interval
from dmkd.recipes.recipe import Recipe
from dmkd.stores import MismatchError, UsageError
from dmkd.stores.identity import fingerprint, refuse_mismatch

NAMES = ["tench, Tinca tinca", "goldfish", "great white shark", "7"]


def make_recipe(**changes) -> Recipe:
    recipe = Recipe("digits", "ab" * 32, 32, None, 10, "ddim", 20, 2.0, None, 4, "float32", 0, 64, False, 2)
    return dataclasses.replace(recipe, **changes)


@pytest.mark.parametrize(
    "changes",
    [{}, {"classes": (1, 5)}, {"cpu_threads": None}, {"guidance": (1.5, 3.0), "guidance_interval": (0.1, 0.5)}],
)
def test_a_recipe_comes_back_from_its_json(changes):
    recipe = make_recipe(**changes)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_every_field_counts_for_the_identity():
    base = fingerprint(make_recipe().to_json())
    changed = {
        "generator_sha256": "cd" * 32,
        "classes": (1,),
        "sampler": "ddpm",
        "steps": 21,
        "guidance": 2.5,
        "guidance_interval": (0.0, 0.5),
        "guided_channels": 3,
        "dtype": "bfloat16",
        "seed": 1,
        "sub_batch": 32,
        "compile": True,
        "cpu_threads": 1,
    }
    prints = {fingerprint(make_recipe(**{key: value}).to_json()) for key, value in changed.items()}
    assert len(prints | {base}) == len(changed) + 1


def test_a_recipe_of_another_version_is_refused():
    with pytest.raises(UsageError, match=r"unknown or missing fields: eta"):
        Recipe.from_json({**make_recipe().to_json(), "eta": 0})
    older = make_recipe().to_json()
    del older["steps"]
    with pytest.raises(UsageError, match=r"unknown or missing fields: eta, steps"):
        Recipe.from_json({**older, "eta": 0})


def test_fields_that_are_younger_than_a_recipe_take_their_defaults():
    recipe = make_recipe()
    optional = [field.name for field in dataclasses.fields(Recipe) if field.default is not dataclasses.MISSING]
    for name in optional:
        older = {key: value for key, value in recipe.to_json().items() if key != name}
        assert Recipe.from_json(older) == recipe


def test_a_range_of_guidance_gives_each_image_its_own_scale():
    scales = make_recipe(guidance=(1.5, 3.0)).image_guidance(np.arange(10_000))
    assert scales.dtype == np.float32 and scales.min() >= 1.5 and scales.max() <= 3 and abs(scales.mean() - 2.25) < 0.02
    np.testing.assert_array_equal(scales[[7, 3]], make_recipe(guidance=(1.5, 3.0)).image_guidance(np.array([7, 3])))
    assert set(make_recipe().image_guidance(np.arange(9)).tolist()) == {2.0}


@pytest.mark.parametrize(("text", "expected"), [("2", 2.0), (1.0, 1.0), ("1.5:3", (1.5, 3.0)), ("2:2", 2.0)])
def test_guidance_is_a_scale_or_a_range(text, expected):
    assert parse_guidance(text) == expected


@pytest.mark.parametrize("text", ["0.5", "99", "3:1.5", "1:2:3", "a", "nan", ""])
def test_guidance_that_can_not_be_is_refused(text):
    with pytest.raises(UsageError, match="[Gg]uidance"):
        parse_guidance(text)


@pytest.mark.parametrize("text", ["0.5", "0.5:0.1", "0:2", "-1:1", "x:y"])
def test_intervals_that_can_not_be_are_refused(text):
    assert parse_interval("0.1:0.27") == (0.1, 0.27) and parse_interval(None) is None
    with pytest.raises(UsageError, match="--guidance-interval"):
        parse_interval(text)


def test_only_the_chosen_classes_are_asked_for():
    assert set(make_recipe(classes=(2, 7)).class_ids(np.arange(100))) == {2, 7}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", (0,)), ("1-2,0", (0, 1, 2)), ("goldfish", (1,)), ("Tinca tinca, great white shark", (0, 2)), ("3", (3,))],
)
def test_classes_are_ids_ranges_or_names(text, expected):
    assert parse_classes(text, ClassList(tuple(NAMES))) == expected


@pytest.mark.parametrize("text", ["4", "0-4", "2-1", "dog", "", ",", "-1"])
def test_classes_that_do_not_exist_are_refused(text):
    with pytest.raises(UsageError, match="--classes"):
        parse_classes(text, ClassList(tuple(NAMES)))


def test_a_mismatch_names_the_fields_both_values_and_the_way_out():
    with pytest.raises(MismatchError) as caught:
        refuse_mismatch("The recipe", {"a": 1, "b": {"c": 2, "d": 0}}, {"a": 1, "b": {"c": 3, "d": 0}}, "Do this.")
    assert str(caught.value) == (
        "The recipe differs from what was asked for (b.c: the store has 2, you asked for 3). Do this."
    )
