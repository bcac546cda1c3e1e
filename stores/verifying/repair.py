"""Deleting what is broken in a store, and only that, so that the next run makes it again."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .. import layout
from ..reader import Reader
from ..trees.tree import Tree, open_tree
from .columns import is_column
from .finding import ERROR, Finding
from .verifier import Verifier


@dataclass
class Repair:
    """What :func:`repair` did."""

    deleted: dict[tuple[str, int], None] = field(default_factory=dict)  # chunks in this order: node, block
    refitted: list[str] = field(default_factory=list)  # label sets that begin anew, their constants being damaged
    swept: int = 0  # half-written files
    refused: list[str] = field(default_factory=list)  # sentences: what could not be repaired, and why
    images: bool = False  # whether images must be made again
    labels: bool = False  # whether labels must
    columns: list[str] = field(default_factory=list)  # those of which numbers must be added again


def repair(store: Reader, findings: Iterable[Finding]) -> Repair:
    """Delete what is broken, and only that, so that the next `dmkd generate` or `dmkd label` makes it again.

    Each block is checked once more before anything of it is deleted. The marker of a block is deleted before any other
    chunk, so that an interruption leaves a block that counts as missing. Labels of a block stay if only its images are
    damaged: the same pixels come back (if not, ``Store.write_block`` deletes what was made from the old ones). Views that
    no labels fit are deleted too, since they may be at fault; they are drawn again. Images that no generator made can't
    come back and are never deleted. Nothing is deleted while attributes are wrong: they would not reproduce what was
    there.
    """
    done = Repair()
    tree = open_tree(store.path)
    done.swept = tree.sweep_partials()
    broken = [finding for finding in findings if finding.severity == ERROR]
    again = Verifier(store)
    seen = set(again.attributes())
    if any(finding.severity == ERROR and not finding.repairable for finding in seen):
        done.refused.append(
            "attributes or metadata are wrong, and what is made by them may be something else than what was there. "
            f"Nothing was deleted; bring {tree.metadata_file} back from a copy first."
        )
        return done
    for block in sorted({finding.block for finding in broken if finding.block is not None and finding.repairable}):
        if block < again.num_blocks:
            seen.update(again.block(block))
    label_sets = {label_set.name: label_set for label_set in again.label_sets}

    def delete(node: str, block: int) -> None:
        if (node, block) not in done.deleted and again.has(node, block):
            tree.delete_block(node, block)
            done.deleted[node, block] = None

    def delete_labels(name: str, block: int) -> None:
        for node in reversed(again.parts[name]):
            delete(node, block)

    def delete_views(node: str, block: int) -> None:
        for name, label_set in label_sets.items():
            if label_set.views_node == node:
                delete_labels(name, block)
        delete(node, block)

    for finding in broken:
        if not finding.repairable:
            done.refused.append(
                f"{finding.where}: the file is there and can't be read; see to the disk or to its permissions."
            )
        elif finding not in seen:
            done.refused.append(f"{finding.where}: it could be read the second time; nothing was deleted.")
        elif finding.block is not None and finding.block >= again.num_blocks:
            delete(finding.node, finding.block)
        elif (beside := _made_with_images(store, finding.node)) is not None:
            assert finding.block is not None
            if store.source is None:
                done.refused.append(
                    f"{finding.where}: these images were not made by a generator, so dmkd can't make them again. "
                    + _way_back(tree, finding.block)
                )
                continue
            for node in (layout.IMAGES, *beside):
                delete(node, finding.block)
            done.images = True
        elif finding.node.startswith(f"{layout.VIEWS}/"):
            assert finding.block is not None
            delete_views(finding.node, finding.block)
            done.labels = True
        elif is_column(finding.node):
            assert finding.block is not None
            delete(finding.node, finding.block)
            done.columns.append(finding.node.split("/")[1])
        else:
            name = finding.node.split("/")[1]
            done.labels = True
            if f"/{layout.CONSTANTS}/" in finding.node:
                # Without its constants no label can be decoded: the next fit makes the arrays anew.
                if name not in done.refitted:
                    tree.set_attributes({"fitted": False}, f"{layout.LABELS}/{name}")
                    done.refitted.append(name)
            elif name not in done.refitted:
                assert finding.block is not None
                delete_labels(name, finding.block)
                of_views = (label_sets[name].views_node, finding.block)
                if of_views in again.doubted_views - again.confirmed_views:
                    delete_views(*of_views)
    return done


def _made_with_images(store: Reader, node: str) -> tuple[str, ...] | None:
    """What is deleted beside a block's images so that an array is made again with them; None: it is not made with images."""
    if node == layout.IMAGES:
        return ()
    if node in (layout.CLASS_IDS, layout.CHECKS):  # one of the two, and it can't be known which
        return (layout.CHECKS, layout.CLASS_IDS)
    of_rounds = [column.node for column in store.columns.values() if column.of_rounds]
    return (node,) if node in of_rounds else None


def _way_back(tree: Tree, block: int) -> str:
    """Of images that no generator made."""
    if not tree.is_chunk_file(layout.IMAGES, block):
        return f"Bring {tree.path} back from a copy, or `dmkd import` into a new store what they were imported from."
    return (
        "Bring the chunk back from a copy; or, if what they were imported from is still there, delete "
        f"{tree.chunk_path(layout.IMAGES, block)} and run the same `dmkd import` again."
    )
