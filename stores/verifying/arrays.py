"""Whether an array is what the layout says, before a block of it is read."""

import numpy as np

from .. import layout
from ..errors import first_line
from ..trees.tree import Tree
from .finding import ERROR, NOTE, Finding


def look_at_array(
    tree: Tree, node: str, spec: layout.ArraySpec, num_images: int, num_blocks: int
) -> tuple[set[int], list[Finding]]:
    """The blocks that an array has chunks of, and what is wrong with it in a store of this many images and blocks."""
    try:
        shape, dtype, present = tree.shape(node), tree.dtype(node), tree.present_blocks(node)
    except (KeyError, ValueError, TypeError) as error:
        what = f"There is no such array, or its metadata is damaged ({first_line(error)})."
        return set(), [Finding(ERROR, node, what)]
    findings = []
    if shape[1:] != spec.shape or dtype != np.dtype(spec.dtype):
        what = f"It is {dtype} (n, {_show(shape[1:])}) and should be {spec.dtype} (n, {_show(spec.shape)})."
        findings.append(Finding(ERROR, node, what))
    if shape[0] > num_images:
        what = (
            f"It has room for {shape[0]:,} images and the store for {num_images:,}: growing it was interrupted; run "
            f"`dmkd generate --images {shape[0]}` again."
        )
        findings.append(Finding(NOTE, node, what, incomplete=True))
    elif shape[0] < num_images:
        findings.append(Finding(ERROR, node, f"It has room for {shape[0]:,} of {num_images:,} images."))
    for block in sorted(block for block in present if block >= num_blocks):
        findings.append(Finding(ERROR, node, "The chunk lies beyond the store's last block.", block, repairable=True))
    return present, findings


def _show(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
