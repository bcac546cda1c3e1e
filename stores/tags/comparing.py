"""Whether a store still holds what it held when it was tagged, block by block."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .. import layout
from ..errors import DamagedChunkError, MissingBlockError, first_line
from ..reader import Reader
from ..verifying.finding import ERROR, NOTE, Finding
from ..verifying.verifier import Verifier
from .covered import descriptions_of, reader_of
from .tag import Tag, digest, facts_of, present, read_digests
from .writing import on_threads

KINDS = {
    "view_sets": ("View set", layout.VIEWS),
    "label_sets": ("Label set", layout.LABELS),
    "columns": ("Column", layout.COLUMNS),
    "rounds": ("Round", layout.ROUNDS),
}


def verify_tag(store: Reader, tag: Tag, advance: Callable[[int], object] = lambda blocks: None) -> list[Finding]:
    """Compare everything that a tag covers with what the store holds now -> what differs, a sentence each.

    Errors are differences; what was added since the tag was made is told in notes. Only what the tag covers is read. ``advance``
    gets numbers of blocks. Raises ``DamagedChunkError`` if the tag itself is damaged."""
    return [*_descriptions(store, tag), *_values(store, tag, tag.arrays, advance), *_additions(store, tag)]


def verify_small(store: Reader, tag: Tag, advance: Callable[[int], object] = lambda blocks: None) -> list[Finding]:
    """As :func:`verify_tag`, without the images and the codecs' arrays, which the small arrays prove when they are read: by
    crc32c's, which find accidents."""
    return [*_descriptions(store, tag), *_values(store, tag, filter(proves_others, tag.arrays), advance)]


def proves_others(node: str) -> bool:
    """Whether an array is neither images nor one of a codec's."""
    group, _, below = node.partition("/")
    return node != layout.IMAGES and (group != layout.LABELS or below.split("/")[-1] in (layout.QUALITY, layout.CHECKS))


def _descriptions(store: Reader, tag: Tag) -> Iterator[Finding]:
    """What the rows mean: the recipe, the classes, the sets."""
    for finding in Verifier(store).attributes():
        if finding.severity == ERROR and (not finding.node or _covers(tag, finding.node)):
            yield finding
    now, then = descriptions_of(store), tag.manifest
    if now["identity"] != then["identity"]:
        yield Finding(ERROR, "", "The recipe is not the one that was tagged: this is another store.")
    if now["classes"] != then["classes"]:
        yield Finding(ERROR, "", "The names of the classes are not those that were tagged.")
    for kind, (words, group) in KINDS.items():
        for name, identity in then.get(kind, {}).items():
            if name not in now.get(kind, {}):
                yield Finding(ERROR, f"{group}/{name}", f"{words} {name} was tagged and is not there.")
            elif now[kind][name] != identity:
                yield Finding(ERROR, f"{group}/{name}", f"{words} {name} is another than was tagged.")


def _covers(tag: Tag, node: str) -> bool:
    students = [f"{layout.ROUNDS}/{number}/{layout.STUDENT}" for number in tag.manifest.get("rounds", {})]
    every = (*tag.arrays, *tag.manifest["constants"], *students)
    return any(covered == node or covered.startswith(f"{node}/") for covered in every)


def _values(store: Reader, tag: Tag, nodes: Iterable[str], advance: Callable[[int], object]) -> Iterator[Finding]:
    """Constants, then the blocks of these arrays."""
    tree = store.chunks.tree
    for node, facts in tag.manifest["constants"].items():
        try:
            same = facts_of(tree.read_constant(node)) == facts
        except (ValueError, RuntimeError, KeyError) as error:
            yield Finding(ERROR, node, f"The constant can't be read ({first_line(error)}).")
            continue
        if not same:
            yield Finding(ERROR, node, "The constant is not the one that was tagged.")
    digests = read_digests(store.chunks, tag)
    present_now: dict[str, set[int]] = {}
    for node in nodes:
        if not (found := list(_shape(store, tag, node))):
            present_now[node] = tree.present_blocks(node)
        yield from found
    readers = {node: reader_of(store.chunks, node) for node in present_now}
    tagged = {node: set(present(digests[node])) for node in present_now}

    def look(block: int) -> list[Finding]:
        found: list[Finding] = []
        for node, read in readers.items():
            if block not in tagged[node]:
                continue
            if block not in present_now[node]:
                found.append(Finding(ERROR, node, "The block was tagged and is missing.", block))
                continue
            try:
                rows = read(block)[: len(tag.block_ids(block))]
            except (DamagedChunkError, MissingBlockError, OSError) as error:
                found.append(Finding(ERROR, node, f"The block can't be read ({first_line(error)}).", block))
                continue
            if digest(rows) != digests[node][block].tobytes():
                found.append(Finding(ERROR, node, "The values are not those that were tagged.", block))
        return found

    for found in on_threads(look, range(tag.num_blocks)):
        advance(1)
        yield from found


def _shape(store: Reader, tag: Tag, node: str) -> Iterator[Finding]:
    """Why an array can't be compared block by block."""
    facts = tag.arrays[node]
    try:
        dtype, shape = str(store.chunks.dtype(node)), list(store.chunks.shape(node))
    except (KeyError, ValueError, TypeError) as error:
        yield Finding(ERROR, node, f"The array was tagged and can't be read ({first_line(error)}).")
        return
    if (dtype, shape[1:]) != (facts["dtype"], facts["shape"][1:]) or shape[0] < tag.num_images:
        yield Finding(
            ERROR, node, f"It was {facts['dtype']} {facts['shape']} when it was tagged, and is {dtype} {shape}."
        )
    elif store.block_size != tag.block_size:
        yield Finding(ERROR, node, f"Its blocks are of {store.block_size} images, and were of {tag.block_size}.")


def _additions(store: Reader, tag: Tag) -> Iterator[Finding]:
    """What came after the tag, and is not covered by it."""
    now: Mapping[str, Any] = descriptions_of(store)
    for kind, (words, group) in KINDS.items():
        for name in now.get(kind, {}).keys() - tag.manifest.get(kind, {}).keys():
            yield Finding(NOTE, f"{group}/{name}", f"{words} {name} was added after the tag was made.")
    made = store.num_blocks - len(store.missing_blocks())
    if made > tag.arrays[layout.IMAGES]["blocks"]:
        more = made - tag.arrays[layout.IMAGES]["blocks"]
        words = "block of images was" if more == 1 else "blocks of images were"
        yield Finding(NOTE, layout.IMAGES, f"{more:,} {words} made after the tag was.")
