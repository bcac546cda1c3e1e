"""Selections: what they select, that they read back, and that nothing else than the grammar is read."""

import inspect
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmkd.making.labelling import label_quality
from dmkd.recipes.selection import COLUMNS, RANK, columns_of, parse_selection
from dmkd.stores import UsageError

#                    top1, p_class, entropy
QUALITY = np.array([[3, 0.9, 0.5], [4, 0.1, 2.5], [3, 0.4, 1.0], [0, 0.05, 3.5]], np.float32)
CLASS_IDS = np.array([3, 3, 3, 7], np.int32)
NAN = float("nan")


def selected(text, quality=QUALITY, class_ids=CLASS_IDS):
    return parse_selection(text).mask(columns_of(quality, class_ids, np.arange(len(class_ids)))).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("entropy < 2.5", [1, 0, 1, 0]),
        ("entropy<=2.5", [1, 1, 1, 0]),
        ("p_class > 0.3", [1, 0, 1, 0]),
        ("p_class >= 0.05", [1, 1, 1, 1]),
        ("top1 == 3", [1, 0, 1, 0]),
        ("class_id != 3", [0, 0, 0, 1]),
        ("agree", [1, 0, 1, 0]),
        ("not agree", [0, 1, 0, 1]),
        ("entropy<2.5 and agree", [1, 0, 1, 0]),
        ("class_id == 7 or entropy < 1", [1, 0, 0, 1]),
        ("not (agree or top1 == 4)", [0, 0, 0, 1]),
        ("not agree or top1 == 4", [0, 1, 0, 1]),
        ("agree or agree and entropy > 9", [1, 0, 1, 0]),
        ("(agree or agree) and entropy > 9", [0, 0, 0, 0]),
        ("0.5 < entropy <= 2.5", [0, 1, 1, 0]),
        ("entropy > -1", [1, 1, 1, 1]),
        ("top1 == class_id", [1, 0, 1, 0]),
        ("  agree  ", [1, 0, 1, 0]),
        ("class_id < 1" + "0" * 300, [1, 1, 1, 1]),
    ],
)
def test_selections_by_hand(text, expected):
    assert selected(text) == [bool(value) for value in expected]


NUMBERS = st.one_of(
    st.integers(-3, 20), st.sampled_from([0.1, 0.5, 2.5, 1e-3, 7.0]), st.floats(0, 8, allow_nan=False).map(abs)
)
COMPARISONS = st.builds(
    lambda column, op, number, turned: f"{number!r} {op} {column}" if turned else f"{column} {op} {number!r}",
    st.sampled_from(["entropy", "p_class", "top1", "class_id", "image_id"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    NUMBERS,
    st.booleans(),
)
EXPRESSIONS = st.recursive(
    COMPARISONS | st.just("agree"),
    lambda inner: st.one_of(
        inner.map(lambda a: f"not {a}"),
        inner.map(lambda a: f"({a})"),
        st.builds(lambda a, b: f"{a} and {b}", inner, inner),
        st.builds(lambda a, b: f"{a} or {b}", inner, inner),
    ),
    max_leaves=12,
)
ROWS = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.sampled_from([0.1, 0.5]) | st.floats(0, 1, width=32),
        st.floats(0, 7, width=32),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(EXPRESSIONS, ROWS)
def test_a_selection_means_what_python_means_image_by_image(text, rows):
    quality = np.array([row[:3] for row in rows], np.float32)
    class_ids = np.array([row[3] for row in rows], np.int32)
    expected = []
    for image_id, ((top1, p_class, entropy), class_id) in enumerate(
        zip(quality.tolist(), class_ids.tolist(), strict=True)
    ):
        names = {"top1": top1, "p_class": p_class, "entropy": entropy, "class_id": class_id, "agree": top1 == class_id}
        names["image_id"] = image_id
        expected.append(bool(eval(text, {"__builtins__": {}}, names)))
    mask = parse_selection(text).mask(columns_of(quality, class_ids, np.arange(len(class_ids))))
    assert mask.dtype == bool
    assert mask.tolist() == expected


@settings(deadline=None)
@given(EXPRESSIONS, ROWS)
def test_a_selection_reads_back_from_its_text(text, rows):
    selection = parse_selection(text)
    again = parse_selection(str(selection))
    assert again == selection and str(again) == str(selection)
    quality, class_ids = np.array([row[:3] for row in rows], np.float32), np.array([row[3] for row in rows])
    columns = columns_of(quality, class_ids, np.arange(len(rows)))
    np.testing.assert_array_equal(again.mask(columns), selection.mask(columns))


def test_spacing_does_not_make_another_selection():
    assert parse_selection("entropy<2.5   and(agree)") == parse_selection("entropy < 2.5 and agree")
    assert str(parse_selection("entropy<2.5   and(agree)")) == "entropy < 2.5 and agree"


def test_a_selection_can_be_sent_to_a_worker():
    selection = parse_selection("entropy < 2.5 and agree")
    assert pickle.loads(pickle.dumps(selection)) == selection


@pytest.mark.parametrize(
    "text", ["entropy < 9", "not entropy < 9", "entropy != 1", "class_id == 3", "not agree", "agree"]
)
@pytest.mark.parametrize("missing", [[NAN, NAN, NAN], [3, 0.9, NAN], [3, NAN, 1], [NAN, 0.9, 1]])
def test_an_image_without_labels_is_never_selected(text, missing):
    quality = np.concatenate([QUALITY, np.array([missing], np.float32)])
    class_ids = np.append(CLASS_IDS, 3)
    assert selected(text, quality, class_ids) == [*selected(text), False]


def test_columns_of_what_the_labeller_writes():
    logits = np.array([[0, 0], [0, np.log(3)]], np.float32)
    columns = columns_of(label_quality(logits, np.array([1, 1])), np.array([1, 1], np.int32), np.arange(2))
    assert columns.keys() == COLUMNS.keys()
    np.testing.assert_allclose(columns["p_class"], [0.5, 0.75], rtol=1e-6)
    np.testing.assert_allclose(columns["entropy"], [np.log(2), np.log(4) - 0.75 * np.log(3)], rtol=1e-6)
    assert columns["top1"].tolist() == [0, 1] and columns["agree"].tolist() == [False, True]
    assert columns["class_id"].dtype == np.int64 and columns["agree"].dtype == bool


@pytest.mark.parametrize(
    ("text", "needed"),
    [("image_id < 300", False), ("not (class_id == 3 or 1 < image_id < 9)", False), ("image_id < 3 and agree", True)],
)
def test_ids_and_classes_are_known_without_a_teacher(text, needed):
    selection = parse_selection(text)
    assert selection.needs_teacher == needed
    if not needed:
        without = selection.mask(columns_of(None, CLASS_IDS, np.arange(4)))
        assert without.tolist() == selected(text)


def test_the_first_n_ids_are_the_first_n_images():
    assert selected("image_id < 2") == [True, True, False, False]


def test_a_mask_is_no_view_of_a_column():
    columns = columns_of(QUALITY, CLASS_IDS, np.arange(4))
    parse_selection("agree").mask(columns)[:] = False
    assert columns["agree"].any()


def test_no_image_is_fine():
    assert selected("agree and entropy < 1", np.zeros((0, 3), np.float32), np.zeros(0, np.int32)) == []


MALICIOUS = [
    "__import__('os').system('touch {file}')",
    "open('{file}', 'w')",
    "agree and open('{file}', 'w')",
    "agree or __import__('pathlib').Path('{file}').touch()",
    "entropy < __import__('os').system('touch {file}')",
    "entropy < (lambda: open('{file}', 'w'))()",
    "[open('{file}', 'w') for _ in (1,)]",
    'f\'{{open("{file}", "w")}}\'',
    "agree.__class__.__mro__",
    "().__class__.__bases__[0].__subclasses__()",
    "agree if open('{file}', 'w') else agree",
    "(agree := open('{file}', 'w'))",
]


@pytest.mark.parametrize("text", MALICIOUS)
def test_nothing_is_executed(text, tmp_path):
    file = tmp_path / "made"
    with pytest.raises(UsageError):
        parse_selection(text.format(file=file))
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("entrop < 2.5 and agree", "at `entrop`: there is no such column"),
        ("__builtins__", "at `__builtins__`: there is no such column"),
        ("entropy and agree", "at `entropy`: this column must be compared"),
        ("agree == 1", "at `agree`: it is true or false"),
        ("1 < 2", "at `1 < 2`: it compares no column"),
        ("True", "at `True`: it is not a condition"),
        ("agree and 1", "at `1`: it is not a condition"),
        ("'agree'", "at `'agree'`: it is not a condition"),
        ("entropy < True", "at `True`: it is neither"),
        ("entropy < None", "at `None`: it is neither"),
        ("entropy < 'a'", "at `'a'`: it is neither"),
        ("entropy < 1j", "at `1j`: it is neither"),
        ("entropy < 1e999", "at `1e999`: it is neither"),
        ("entropy < 9**9**9**9", "at `9**9**9**9`: it is neither"),
        ("entropy < --1", "at `--1`: it is neither"),
        ("entropy + 1 < 2", "at `entropy + 1`: it is neither"),
        ("entropy < (agree < 1)", "at `agree < 1`: it is neither"),
        ("class_id in [1, 2]", "at `[1, 2]`: it is neither"),
        ("entropy is 1", "at `entropy is 1`: it is not one of the comparisons"),
        ("class_id in entropy", "it is not one of the comparisons"),
        ("agree & agree", "at `agree & agree`: it is not a condition"),
        ("~agree", "at `~agree`: it is not a condition"),
        ("agree, agree", "at `agree, agree`: it is not a condition"),
        ("entropy < 2 && agree", "at `& agree`: it is not an expression"),
        ("entropy = 2", "it is not an expression"),
        ("agree; agree", "at `; agree`: it is not an expression"),
        ("import os", "it is not an expression"),
        ("", "it is not an expression"),
        ("agree\0", "it is not an expression"),
        ("agree\udcff", "it is not an expression"),  # as an argument that is no UTF-8 arrives
        ("agree " * 200, "1200 characters"),
        ("(" * 300 + "agree" + ")" * 300, "it is not an expression"),
        ("-" * 900 + "1 < entropy", "it is neither"),
        ("entropy < " + "9" * 900, "it is neither"),
        (" or ".join(["entropy<9e9"] * 60), "written out"),
    ],
)
def test_what_is_no_selection_is_refused_in_one_sentence_that_helps(text, part):
    with pytest.raises(UsageError) as caught:
        parse_selection(text)
    message = str(caught.value)
    assert part in message
    assert "\n" not in message and len(message) < 350
    assert (
        "the columns are entropy, p_class, top1, agree, class_id, image_id, as in `entropy < 2.5 and agree`." in message
    )


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("agrent_ops<>=!()19. \n-", max_size=40))
def test_any_text_is_a_selection_or_a_usage_error(text):
    try:
        selection = parse_selection(text)
    except UsageError:
        return
    assert selection.mask(columns_of(QUALITY, CLASS_IDS, np.arange(4))).shape == (4,)


def test_the_deepest_text_there_is_is_read():
    assert selected("not " * 248 + "agree") == selected("agree")


def test_a_text_too_deep_for_the_stack_is_refused():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 300)
    try:
        with pytest.raises(UsageError, match="nested too deeply"):
            parse_selection("not " * 248 + "agree")
    finally:
        sys.setrecursionlimit(limit)


def test_style_remarks_of_python_are_not_the_users_problem(recwarn):
    assert selected("entropy<2.5and agree") == selected("entropy < 2.5 and agree")
    assert not recwarn.list


def ranked(expression, class_ids, **own):
    ids = np.arange(len(class_ids))
    columns = columns_of(None, np.array(class_ids), ids) | {name: np.array(values) for name, values in own.items()}
    return parse_selection(expression, own).mask(columns).tolist()


def test_columns_of_the_users_own_are_compared_like_others():
    assert ranked("0.2 < score < 0.6 and class_id == 0", [0, 0, 1], score=[0.1, 0.5, 0.5]) == [False, True, False]
    assert not parse_selection("score > 0", ["score"]).needs_teacher and parse_selection("agree").needs_teacher
    assert parse_selection("score > 0 and rank(other) <= 3", ["score", "other", "third"]).own_columns == [
        "other",
        "score",
    ]
    with pytest.raises(UsageError, match="no such column; the columns are .*, image_id, clip, as in"):
        parse_selection("score > 0", ["clip"])


def test_a_number_that_is_not_known_selects_nothing():
    assert ranked("score > 0", [0, 0, 0], score=[1.0, np.nan, -1.0]) == [True, False, False]
    assert ranked("not score > 0", [0, 0, 0], score=[1.0, np.nan, -1.0]) == [False, False, True]


def test_ranks_are_within_a_class_and_equals_keep_their_order():
    scores = [0.1, 0.9, 0.5, 0.7, 0.7, 0.2]
    classes = [0, 0, 0, 1, 1, 1]
    assert ranked("rank(score) <= 1", classes, score=scores) == [False, True, False, True, False, False]
    assert ranked("rank(-score) <= 1", classes, score=scores) == [True, False, False, False, False, True]
    assert ranked("2 <= rank(score) <= 3", classes, score=scores) == [True, False, True, False, True, True]


def test_what_is_not_known_takes_no_place_in_a_rank():
    assert ranked("rank(score) <= 1", [0, 0, 0], score=[np.nan, 0.1, 0.2]) == [False, False, True]


# Of 32 bits or not, equal or only just not, of both signs and both zeros.
SCORES = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.1, float(np.float32(0.1)), 1e-45, -1e-45, 3e38, -1e300, np.inf, -np.inf]
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("first_class", [0, 2**31])
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), SCORES | st.floats(width=32, allow_nan=False)), max_size=30),
    most=st.integers(1, 5),
)
def test_ranks_against_sorting_each_class(dtype, first_class, rows, most):
    classes = [c + first_class for c, _ in rows]
    with np.errstate(over="ignore"):
        scores = np.array([s for _, s in rows], dtype)
    chosen = ranked(f"rank(score) <= {most}", np.array(classes, np.int64), score=scores)
    for one in set(classes):
        ids = [i for i, c in enumerate(classes) if c == one]
        best = sorted(ids, key=lambda i: (-scores[i], i))[:most]
        assert {i for i in ids if chosen[i]} == set(best)


@pytest.mark.parametrize(
    "text", ["rank(3) <= 2", "rank() <= 2", "rank(score, 2) <= 1", "rank(agree) < 3", "rank(x=1) < 2", "rank < 3"]
)
def test_ranks_of_nothing_are_refused(text):
    with pytest.raises(UsageError, match="can't be read"):
        parse_selection(text, ["score"])


def test_the_names_that_stores_reserve_are_those_of_selections():
    from dmkd.stores.column_writing import RESERVED

    assert set(RESERVED) == {*COLUMNS, RANK}
