"""Whether rounds are sound: a chain without gaps, as long as the store, of the students that were kept."""

from collections.abc import Iterator

from .. import layout
from ..errors import DmkdError
from ..reader import Reader
from ..rounds import is_chained
from .finding import ERROR, Finding


def look_at_rounds(store: Reader) -> Iterator[Finding]:
    """What is wrong with the rounds, but for the numbers of their images. Reads the students."""
    before, end = store.identity, None
    for number, one in enumerate(store.rounds, 1):
        if one.number != number or end not in (None, one.start):
            yield Finding(ERROR, one.node, "It does not follow the round before it: some round is not there.")
        elif not is_chained(one, before):
            yield Finding(ERROR, one.node, "The identity is not that of its description and of the round before it.")
        elif one.description.get("student"):
            try:
                one.student_weights()
            except DmkdError as error:
                yield Finding(ERROR, f"{one.node}/{layout.STUDENT}", str(error))
        before, end = one.identity, one.stop
    if (end is not None and end < store.num_images) or (end is None and _was_made_in_rounds(store)):
        yield Finding(
            ERROR, layout.ROUNDS, "The last images are of a round that is not there: bring it back from a copy."
        )


def _was_made_in_rounds(store: Reader) -> bool:
    """Whether the last numbers of the rounds' column are of one, where there is none."""
    column, tree = store.columns.get(layout.ROUND), store.chunks.tree
    if column is None or not column.of_rounds or not (there := tree.present_blocks(column.node)):
        return False
    try:
        return bool(tree.read_block(column.node, max(there))[:, 0].max() > 0)
    except (ValueError, RuntimeError):  # a finding of its own
        return False
