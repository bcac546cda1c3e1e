import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmkd.recipes.class_choice import parse_classes
from dmkd.recipes.class_list import ClassList
from dmkd.recipes.id_ranges import id_ranges


@given(st.sets(st.integers(0, 99), min_size=1))
def test_class_ids_come_back(ids):
    classes = ClassList(tuple(f"class {i}" for i in range(100)))
    assert parse_classes(id_ranges(sorted(ids)), classes) == tuple(sorted(ids))


@pytest.mark.parametrize(("ids", "text"), [([], ""), ([4], "4"), ([0, 1, 2, 7], "0-2, 7"), ([5, 4, 5, 6], "5, 4-6")])
def test_runs_are_ranges_and_the_order_stays(ids, text):
    assert id_ranges(ids, ", ") == text
