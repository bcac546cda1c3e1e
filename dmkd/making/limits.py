"""What a run would exceed: ids, memory and disk, found from shapes alone before its first byte is written."""

from collections import Counter
from collections.abc import Sequence

from dmkd.making.sizes import PlannedLabels, StoreSize, missing_bytes
from dmkd.runtime.space import available_memory, byte_size, free_disk
from dmkd.stores import UsageError

# Of bytes that are only roughly known beforehand (compressed pixels and labels), the share that is certain enough to refuse.
CERTAIN = 0.5


def check_limits(
    path: str, size: StoreSize, label_sets: Sequence[PlannedLabels], workers: int | None, ray_address: str | None = None
) -> None:
    """Raise ``UsageError`` for the first of :func:`obstacles`; ``workers`` work here, or on the cluster at ``ray_address``."""
    for sentence in obstacles(path, size, label_sets, None if ray_address else workers):
        raise UsageError(sentence)


def obstacles(path: str, size: StoreSize, label_sets: Sequence[PlannedLabels], workers: int | None) -> list[str]:
    """Why this machine can't make what a store lacks, a sentence for each reason. ``workers``: processes that work here,
    None: they are on other machines, whose memory is not known."""
    free = free_disk(path)
    missing = missing_bytes(size, label_sets) if free is not None else Counter[str]()
    if free is not None and not missing.total():
        return []
    sentences = []
    if workers is not None:
        needed, available = max(1, workers) * block_memory(size, label_sets), available_memory()
        if needed > available:
            by, or_fewer = (f" with {workers} workers", " or --workers") if workers > 1 else ("", "")
            sentences.append(
                f"Blocks of {size.block_size:,} images need about {byte_size(needed)} of memory{by}, and "
                f"{byte_size(available)} are available: choose a smaller --block-size or fewer --views{or_fewer}."
            )
    if free is not None and missing.total() - (1 - CERTAIN) * missing["about"] > free:
        roughly = "about " if missing["about"] else "up to " if missing["at most"] else ""
        sentences.append(
            f"{path} needs {roughly}{byte_size(missing.total())} of disk space, and {byte_size(free)} are free there: "
            "make fewer images or views, free some space, or use another disk."
        )
    return sentences


def block_memory(size: StoreSize, label_sets: Sequence[PlannedLabels]) -> int:
    """Bytes, about, that a process needs for blocks beside its models.

    Twice a block's arrays, as one block is made while another is written: pixels, and of each view its components and logits
    in float32. One view of each image, rendered. Twice the largest chunk (logits in float16), which has its full length
    however few images the block holds: filled up, and as it goes to the disk.
    """
    pixels = size.image_shape[0] * size.image_shape[1] * size.image_shape[2]
    views = sum(one.views * 4 * (one.num_classes + len(one.view_set.components)) for one in label_sets)
    seen = [views for one in label_sets for views in (one.view_set, one.quality_view) if views is not None]
    rendered = max((3 * views.size**2 for views in seen), default=0)
    images = min(size.num_images, size.block_size)
    return images * (2 * (pixels + views) + rendered) + 2 * size.block_size * max(pixels, views // 2)
