import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmkd.recipes.generator_args import as_recorded, parse_arguments, written_arguments
from dmkd.recipes.recipe import Recipe
from dmkd.stores import UsageError
from dmkd.stores.identity import fingerprint

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
DIGITS = "ef22fd91e9bd78df4afdd2b8eccdb921b9ec0c9785745c5d041813a1b4f74664"  # as it was before there were arguments
PLAIN = Recipe("mine:make", "ab" * 32, 32, None, 10, None, None, None, None, None, None, 0, 64, False, 2)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,5}", fullmatch=True), VALUES, max_size=3))
def test_arguments_come_back_from_what_is_written(arguments):
    assert parse_arguments(written_arguments(arguments)) == arguments


def test_values_are_json_where_they_can_be_and_texts_otherwise():
    texts = ["a=3", "b=cold", 'c="3"', "d=[1, 2]", "e=null", "f=", "g=NaN", "h=x=y", "i=true"]
    read = {"a": 3, "b": "cold", "c": "3", "d": [1, 2], "e": None, "f": "", "g": "NaN", "h": "x=y", "i": True}
    assert parse_arguments(texts) == read


def test_they_are_recorded_as_they_are_read_back():
    assert as_recorded({}) is None and as_recorded({"a": (1, 2)}) == {"a": [1, 2]}
    for odd in (object(), float("nan")):
        with pytest.raises(UsageError, match="can't be recorded as JSON"):
            as_recorded({"a": odd})


def test_a_recipe_holds_them_and_without_any_it_is_what_it_was():
    cold, warm = (dataclasses.replace(PLAIN, generator_args={"palette": one, "at": [1, 2]}) for one in ("cold", "warm"))
    assert Recipe.from_json(cold.to_json()) == cold
    assert len({fingerprint(one.to_json()) for one in (PLAIN, cold, warm)}) == 3
    digits = Recipe("digits", "ab" * 32, 32, None, 10, "ddim", 20, 2.0, None, 4, "float32", 0, 64, False, 2)
    assert fingerprint(digits.to_json()) == DIGITS, "recipes that were written before keep their identity"
