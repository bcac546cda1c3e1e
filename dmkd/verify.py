"""`dmkd verify`: whether a store is sound, and whether models still give what is in it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dmkd.runtime.progress import Display
from dmkd.stores import DmkdError, Store, UsageError, open_store
from dmkd.stores.verifying.finding import ERROR, NOTE, WARNING, Finding
from dmkd.stores.verifying.repair import Repair, repair
from dmkd.stores.verifying.verifier import Verifier

# torch, and what needs it, is imported where models run: reading a store through takes none.

SAMPLE_SEED = 0  # which blocks are made again
# On the same machine nothing differs. Another one rounds otherwise; what differs by more was made by other weights,
# from other pixels, or was damaged before its checksum was taken.
TOP1_TOLERANCE = 0.01  # share of the views whose most likely class changes
LOGIT_TOLERANCE = 0.1
PIXEL_TOLERANCE = 2  # grey levels


@dataclass
class Report:
    """What was found. ``rerun_teacher`` (by label set) and ``regenerate`` are None where they were not asked for."""

    path: str
    findings: list[Finding]
    blocks: int
    chunks: int
    bytes: int  # of the arrays, uncompressed
    seconds: float
    rerun_teacher: dict[str, Any] | None = None
    regenerate: dict[str, Any] | None = None
    repair: Repair | None = None
    advice: str | None = None  # the command that makes again what is not there
    counts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = {kind: sum(f.severity == kind for f in self.findings) for kind in (ERROR, WARNING, NOTE)}

    @property
    def sound(self) -> bool:
        return not self.counts[ERROR]

    @property
    def repaired(self) -> bool:
        """Whether every error that was found is gone: what was broken is deleted and counts as not made yet."""
        errors = [finding for finding in self.findings if finding.severity == ERROR]
        return self.repair is not None and not self.repair.refused and all(finding.repairable for finding in errors)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "sound": self.sound,
            "repaired": self.repaired,
            "errors": self.counts[ERROR],
            "warnings": self.counts[WARNING],
            "notes": self.counts[NOTE],
            "findings": [finding.to_json() for finding in self.findings],
            "blocks": self.blocks,
            "chunks": self.chunks,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "rerun_teacher": self.rerun_teacher,
            "regenerate": self.regenerate,
            "repair": self.repair
            and {
                "deleted": [f"{node}, block {block}" for node, block in self.repair.deleted],
                "refitted": self.repair.refitted,
                "swept": self.repair.swept,
                "refused": self.repair.refused,
                "then": self.advice,
            },
        }


def verify(
    path: str,
    *,
    mend: bool = False,
    rerun_teacher: float | None = None,
    regenerate: float | None = None,
    device: str | None = None,
    display: Display,
) -> Report:
    """Read all of a store; with shares in (0, 1], label or make so many of its blocks again and compare.

    ``mend``: delete what is broken, so that the next run makes it again. Models that don't give what is stored are
    reported and nothing is deleted for it. Raises ``UsageError`` for a share out of range and for images that no generator
    made.
    """
    for option, share in (("--rerun-teacher", rerun_teacher), ("--regenerate", regenerate)):
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"{option} takes a share of the blocks, greater than 0 and at most 1, not {share:g}.")
    store = open_store(path)
    if regenerate is not None and not store.source:
        raise UsageError(f"The images of {path} were not made by a generator, so they can't be made again by one.")
    if rerun_teacher is not None or regenerate is not None:
        from dmkd.runtime.devices import choose_device

        device = choose_device(device)

    start = time.monotonic()
    verifier = Verifier(store)
    findings = list(verifier.attributes())
    with display.task("verify", verifier.num_blocks, unit="blocks") as advance:
        for block in range(verifier.num_blocks):
            found = list(verifier.block(block))
            findings += found
            advance(1, found[-1].where if found else "")
    findings += verifier.summary()
    report_of_reading = (verifier.num_blocks, verifier.chunks, verifier.bytes, time.monotonic() - start)

    labels = pixels = mended = None
    broken = {finding.block for finding in findings if finding.severity == ERROR and finding.block is not None}
    sound = [block for block in range(verifier.num_blocks) if block not in broken]
    more: list[Finding] = []
    if rerun_teacher is not None:
        assert device is not None
        labels = {}
        for name in verifier.coders:
            labels[name], found = rerun_labels(store, name, rerun_teacher, sound, device, display)
            more += found
    if regenerate is not None:
        assert device is not None
        pixels, found = regenerate_images(store, regenerate, sound, device, display)
        more += found
    if mend:
        mended = repair(store, findings)
    report = Report(path, findings + more, *report_of_reading, labels, pixels, mended)
    if mended and (mended.images or mended.labels):
        report.advice = f"dmkd {'generate' if mended.images else 'label'} --store {path}"
    return report


def rerun_labels(
    store: Store, name: str, share: float, blocks: Sequence[int], device: str, display: Display
) -> tuple[dict[str, Any], list[Finding]]:
    """Label a sample of ``blocks`` again and compare with what is stored -> numbers, findings.

    The fresh labels go through the codec before they are compared, so that what it rounds away is no difference.
    """
    import torch

    from dmkd.making.blocks import BlockWorker, WorkOrder, label_views, views_of_block

    label_set = store.labels[name]
    absent = set(label_set.missing_blocks()) | set(store.missing_blocks())
    chosen = _sample([block for block in blocks if block not in absent], share)
    result: dict[str, Any] = {"blocks": chosen, "views": 0}
    if not chosen:
        return result, [Finding(NOTE, label_set.node, "It has no sound labels to compare the teacher's with.")]
    try:
        worker = BlockWorker(WorkOrder(store.path, (name,), device, _cpu_threads(store, device), generator=None))
    except DmkdError as error:
        return result, [Finding(ERROR, label_set.node, f"Its teacher was not rerun. {error}")]
    teacher, view_set, coder = worker.teachers[name], store.views[label_set.view_set], label_set.coder
    largest, total, changed, views_seen, other_views = 0.0, 0.0, 0, 0, []
    with display.task(f"rerun {name}", len(chosen), unit="blocks") as advance:
        for block in chosen:
            ids = np.array(store.block_ids(block))
            images = torch.from_numpy(store.images[ids]).to(device)
            views = view_set[ids]
            if not np.array_equal(views, views_of_block(view_set, ids)):
                other_views.append(block)
            values = label_views(teacher, images, views, view_set, label_set.codec.input)
            fresh, stored = coder.decode(coder.encode(values)), label_set.logits(ids)
            difference = np.abs(fresh - stored)
            largest = max(largest, float(difference.max()))
            total += float(difference.mean(-1, dtype=np.float64).sum())
            changed += int((fresh.argmax(-1) != stored.argmax(-1)).sum())
            views_seen += difference.shape[0] * difference.shape[1]
            advance(1)
    result |= {
        "views": views_seen,
        "max_logit_difference": largest,
        "mean_logit_difference": total / views_seen,
        "top1_changed": changed / views_seen,
        "blocks_with_other_views": other_views,
    }
    findings = []
    if largest > LOGIT_TOLERANCE or changed / views_seen > TOP1_TOLERANCE:
        findings.append(
            Finding(
                ERROR,
                label_set.node,
                f"The teacher says something else than what is stored: logits differ by up to {largest:.3g}, the most "
                f"likely class of {changed / views_seen:.1%} of {views_seen:,} views. Label anew under another --name.",
            )
        )
    if other_views:
        findings.append(
            Finding(
                WARNING,
                view_set.node,
                f"The views of {len(other_views)} of {len(chosen)} blocks are not those that their policy and seed draw here.",
            )
        )
    return result, findings


def regenerate_images(
    store: Store, share: float, blocks: Sequence[int], device: str, display: Display
) -> tuple[dict[str, Any], list[Finding]]:
    """Make the images of a sample of ``blocks`` again and compare with what is stored -> numbers, findings."""
    from dmkd.generators.defaults import parse_source
    from dmkd.making.blocks import BlockWorker, WorkOrder, make_images
    from dmkd.stores.layout import CLASS_IDS, IMAGES

    absent = set(store.missing_blocks())
    chosen = _sample([block for block in blocks if block not in absent], share)
    result: dict[str, Any] = {"blocks": chosen, "images": 0}
    if not chosen:
        return result, [Finding(NOTE, IMAGES, "There are no sound images to compare the generator's with.")]
    assert store.source is not None
    source, threads = parse_source(store.source).weights, _cpu_threads(store, device)
    try:
        worker = BlockWorker(WorkOrder(store.path, (), device, threads, generator=source))
    except DmkdError as error:
        return result, [Finding(ERROR, IMAGES, f"The generator was not rerun. {error}")]
    assert worker.generator is not None
    largest, differing, values, other_classes = 0, 0, 0, 0
    num_images = sum(len(store.block_ids(block)) for block in chosen)
    with display.task("regenerate", num_images) as advance:
        for block in chosen:
            ids = np.array(store.block_ids(block))
            images, class_ids = make_images(worker.generator, worker.recipe, ids)
            difference = np.abs(store.as_stored(images.cpu().numpy()).astype(np.int16) - store.images[ids])
            largest = max(largest, int(difference.max()))
            differing += int((difference > 0).sum())
            values += difference.size
            other_classes += int((class_ids != store.class_ids[ids]).sum())
            advance(len(ids))
    result |= {
        "images": num_images,
        "max_difference": largest,
        "share_differing": differing / values,
        "other_class_ids": other_classes,
    }
    findings = []
    if largest > PIXEL_TOLERANCE:
        findings.append(
            Finding(
                ERROR,
                IMAGES,
                f"The generator makes other images than those stored: {differing / values:.2%} of the values of "
                f"{num_images:,} images differ, by up to {largest} grey levels.",
            )
        )
    if other_classes:
        findings.append(
            Finding(ERROR, CLASS_IDS, f"{other_classes:,} images have another class than the recipe gives.")
        )
    return result, findings


def _sample(blocks: Sequence[int], share: float) -> list[int]:
    """A share of the blocks, at least one if there is any, the same ones every time, ascending."""
    count = min(len(blocks), max(1, math.ceil(share * len(blocks))))
    drawn = np.random.Generator(np.random.PCG64(SAMPLE_SEED)).permutation(len(blocks))[:count]
    return [blocks[place] for place in sorted(drawn.tolist())]


def _cpu_threads(store: Store, device: str) -> int | None:
    """As the labeller takes them."""
    from dmkd.runtime.devices import default_cpu_threads

    return store.recipe.get("cpu_threads") or (default_cpu_threads() if device == "cpu" else None)
