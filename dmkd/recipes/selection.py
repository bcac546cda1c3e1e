"""Choosing images at training time by what is stored about them: ``entropy < 2.5 and agree``. The store does not change."""

import ast
import operator
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from dmkd.stores import UsageError

COLUMNS = {
    "entropy": "of the teacher's softmax, nats",
    "p_class": "the teacher's probability of the class asked for",
    "top1": "the class that the teacher sees",
    "agree": "top1 is the class asked for",
    "class_id": "the class asked for",
    "image_id": "the image's number in the store, from 0",
}
OF_THE_IMAGE = ("class_id", "image_id")  # the others are a teacher's opinion
CONDITIONS = ("agree",)
RANK = "rank"
EXAMPLE = "entropy < 2.5 and agree"
LONGEST = 1000  # characters: bounds the depth, since Python's own parser can crash on deep nesting

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True)
class Selection:
    """A condition on an image's columns, made by :func:`parse_selection`. ``str`` gives an equivalent expression with uniform
    spacing, for recipes."""

    expression: str
    own: frozenset[str] = frozenset()  # the user's columns that it may speak of

    def __str__(self) -> str:
        return self.expression

    @property
    def needs_teacher(self) -> bool:
        """Whether it uses a column that is a teacher's opinion."""
        return not self._names <= {*OF_THE_IMAGE, RANK, *self.own}

    @property
    def own_columns(self) -> list[str]:
        """The user's columns that it uses."""
        return sorted(self._names & self.own)

    @property
    def _names(self) -> set[str]:
        return {node.id for node in ast.walk(_parsed(self.expression)) if isinstance(node, ast.Name)}

    def mask(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Columns name -> (n,), as :func:`columns_of` makes them -> bool (n,): the images selected.

        Numbers are compared as float64. An image with a NaN in any column is never selected, whatever the expression: its
        block has no labels.
        """
        needed = {name: columns[name] for name in (*COLUMNS, *self.own_columns) if name in columns}
        known = np.ones(len(columns["image_id"]), bool)
        for values in needed.values():
            if values.dtype.kind == "f":
                known &= ~np.isnan(values)
        # Ranks are among the images that could be selected.
        here = needed if known.all() else {name: values[known] for name, values in needed.items()}
        selected = np.zeros(len(known), bool)
        selected[known] = _condition(_parsed(self.expression), self.expression, here)
        return selected


def parse_selection(text: str, own: Iterable[str] = ()) -> Selection:
    """Text -> selection. Comparisons (< <= > >= == !=) of columns with numbers, ``agree``, ``not``, ``and``, ``or`` and
    parentheses, with Python's meaning and precedence, chains such as ``1 < entropy < 3`` included. ``own``: a user's columns, of
    which it may speak, too. ``rank(p_class)`` is an image's place within its class, 1 for the largest: ``rank(p_class) <= 500``
    are the 500 of each class with the largest p_class, ``rank(-entropy) <= 500`` those with the smallest entropy; of equals the
    one with the smaller image id comes first.

    Raises ``UsageError`` on anything else. Nothing is executed: the text is parsed to a syntax tree, and only the kinds of nodes
    named here are accepted.
    """
    if len(text) > LONGEST:
        raise _refused(text, f"it has {len(text)} characters, more than {LONGEST}")
    try:
        tree = _parsed(text)
        # Selecting among no images checks the whole grammar.
        _condition(tree, text, dict.fromkeys((*COLUMNS, *own), np.zeros(0)))
        expression = ast.unparse(tree)
    except RecursionError as error:
        raise _refused(text, "it is nested too deeply") from error
    if len(expression) > LONGEST:  # 9e9 is written out; what ``str`` gives must be readable again
        raise _refused(text, f"written out it has {len(expression)} characters, more than {LONGEST}")
    return Selection(expression, frozenset(own))


def columns_of(quality: np.ndarray | None, class_ids: np.ndarray, image_ids: np.ndarray) -> dict[str, np.ndarray]:
    """A label set's quality, float32 (n, 3), class ids (n,) and image ids (n,) -> the columns of :data:`COLUMNS`, (n,) each.

    Float64 for entropy, p_class and top1, NaN where labels are missing; int64 for class_id and image_id; bool for agree.
    Without a quality, only the columns of the image itself: enough for selections that need no teacher.
    """
    class_id = np.asarray(class_ids, np.int64)
    columns = {"class_id": class_id, "image_id": np.asarray(image_ids, np.int64)}
    if quality is not None:
        top1, p_class, entropy = np.asarray(quality, np.float64).T
        columns |= {"entropy": entropy, "p_class": p_class, "top1": top1, "agree": top1 == class_id}
    return columns


def _parsed(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's remarks on style, such as "2.5and"
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError) as error:  # MemoryError: what the parser raises for too many levels
        offset = getattr(error, "offset", None) or 1
        raise _refused(text, "it is not an expression", text.strip()[offset - 1 :]) from error


def _condition(node: ast.expr, text: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool (n,). With :func:`_number`, the only place that gives nodes a meaning: what is not listed here is refused."""
    match node:
        case ast.BoolOp(op=joint, values=values):
            join = np.logical_and if isinstance(joint, ast.And) else np.logical_or
            return reduce(join, [_condition(value, text, columns) for value in values])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_condition(operand, text, columns)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            numbers = [_number(operand, text, columns) for operand in (left, *comparators)]
            if not any(number.ndim for number in numbers):
                raise _refused(text, "it compares no column", node)
            pairs = []
            for op, a, b in zip(ops, numbers, numbers[1:], strict=False):
                if type(op) not in _COMPARISONS:
                    raise _refused(text, "it is not one of the comparisons < <= > >= == !=", node)
                pairs.append(_COMPARISONS[type(op)](a, b))
            return reduce(np.logical_and, pairs)
        case ast.Name(id=name) if name in CONDITIONS:
            return np.asarray(columns[name], bool)
        case ast.Name(id=name) if name in columns:
            raise _refused(text, "this column must be compared with a number", node)
        case ast.Name():
            raise _refused(text, "there is no such column", node, columns)
    raise _refused(text, "it is not a condition", node)


def _number(node: ast.expr, text: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64, (n,) of a column or () of a number."""
    match node:
        case ast.Name(id=name) if name in CONDITIONS:
            raise _refused(text, "it is true or false, so it stands alone or after not", node)
        case ast.Name(id=name) if name in columns:
            return np.asarray(columns[name], np.float64)
        case ast.Name():
            raise _refused(text, "there is no such column", node, columns)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() | ast.Name() as operand):
            return -_number(operand, text, columns)
        case ast.Call(func=ast.Name(id=called), args=[ast.Name() | ast.UnaryOp() as ranked], keywords=[]) if (
            called == RANK
        ):
            values = _number(ranked, text, columns)
            if not values.ndim:
                raise _refused(text, "it ranks no column", node)
            return _rank_in_class(values, np.asarray(columns["class_id"]))
        case ast.Call(func=ast.Name(id=called)):
            raise _refused(text, "rank takes one column, as in rank(p_class) or rank(-entropy)", node)
        case ast.Constant(value=int() | float() as value) if (
            type(value) is not bool and abs(value) <= sys.float_info.max
        ):
            return np.asarray(value, np.float64)
    raise _refused(text, "it is neither a column nor a number", node)


def _rank_in_class(values: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """float64 (n,): each one's place among those of its class, 1 for the largest; equals in their order."""
    order = _by_class_and_value(values, class_ids)
    sorted_ids = class_ids[order]
    firsts = np.flatnonzero(np.diff(sorted_ids, prepend=sorted_ids[:1] - 1))
    ranks = np.empty(len(values))
    ranks[order] = np.arange(1, len(values) + 1) - np.repeat(firsts, np.diff(firsts, append=len(values)))
    return ranks


def _by_class_and_value(values: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """int64 (n,): places, by class, then from the largest value to the smallest, then in their order."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    place_bits, class_bits = len(values).bit_length(), int(class_ids.max(initial=0)).bit_length()
    if place_bits + class_bits > 32 or class_ids.min(initial=0) < 0 or not np.array_equal(narrow, values):
        order = np.argsort(-values, kind="stable")
        # Numbers of 16 bits are sorted by counting.
        fits = 0 <= class_ids.min(initial=0) <= class_ids.max(initial=0) < 2**16
        return order[np.argsort((class_ids.astype(np.uint16) if fits else class_ids)[order], kind="stable")]
    # Class, value and place are one number of 64 bits: a million of them are sorted in a quarter of the time of two stable sorts.
    # Of numbers below zero all bits are turned, of others the first: so they sort as the floats do.
    bits = (0 - narrow).view(np.uint32)
    bits ^= (bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(1 << 31)
    keys = class_ids.astype(np.uint64) << np.uint64(32) | bits
    keys = keys << np.uint64(place_bits) | np.arange(len(values), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << place_bits) - 1)).astype(np.int64)


def _refused(text: str, reason: str, part: ast.expr | str | None = "", columns: Iterable[str] = COLUMNS) -> UsageError:
    """``part``: what is wrong, a node or a piece of the text."""
    if isinstance(part, ast.expr):
        part = ast.get_source_segment(text.strip(), part)
    at = f" at `{_short(part, 40)}`" if part else ""
    return UsageError(
        f"The selection `{_short(text, 80)}` can't be read{at}: {reason}; "
        f"the columns are {', '.join(columns)}, as in `{EXAMPLE}`."
    )


def _short(text: str, longest: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 3]}..."
