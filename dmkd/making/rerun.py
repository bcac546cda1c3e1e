"""Making and labelling a sample of a store's blocks again, to see whether models still give what is in it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dmkd.generators.sources import parse_source
from dmkd.making.blocks import BlockWorker, WorkOrder
from dmkd.making.labelling import label_views, labelling_threads
from dmkd.runtime.progress import Display
from dmkd.stores import DmkdError, Store
from dmkd.stores.layout import CLASS_IDS, COLUMNS, IMAGES, QUALITY, SCORE
from dmkd.stores.verifying.finding import ERROR, NOTE, WARNING, Finding

SAMPLE_SEED = 0  # which blocks are made again
# On the same machine nothing differs. Another one rounds otherwise; what differs by more was made by other weights,
# from other pixels, or was damaged before its checksum was taken.
TOP1_TOLERANCE = 0.01  # share of the views whose most likely class changes
LOGIT_TOLERANCE = 0.1
P_CLASS_TOLERANCE = 0.05
PIXEL_TOLERANCE = 2  # grey levels
SCORE_TOLERANCE = 0.1  # of a score


def rerun_labels(
    store: Store, name: str, share: float, blocks: Sequence[int], device: str, display: Display
) -> tuple[dict[str, Any], list[Finding]]:
    """Label a sample of ``blocks`` again and compare with what is stored -> numbers, findings.

    The fresh labels go through the codec before they are compared, so that what it rounds away is no difference.
    """
    label_set = store.labels[name]
    absent = set(label_set.missing_blocks()) | set(store.missing_blocks())
    chosen = _sample([block for block in blocks if block not in absent], share)
    result: dict[str, Any] = {"blocks": chosen, "views": 0}
    if not chosen:
        return result, [Finding(NOTE, label_set.node, "It has no sound labels to compare the teacher's with.")]
    try:
        worker = BlockWorker(WorkOrder(store.path, (name,), device, labelling_threads(store, device), generator=None))
    except DmkdError as error:
        return result, [Finding(ERROR, label_set.node, f"Its teacher was not rerun. {error}")]
    teacher, view_set, coder = worker.teachers[name], store.views[label_set.view_set], label_set.coder
    description = worker.views[view_set.name]
    largest, total, changed, views_seen, other_views = 0.0, 0.0, 0, 0, []
    quality_off, quality_changed, images_seen = 0.0, 0, 0
    with display.task(f"rerun {name}", len(chosen), unit="blocks") as advance:
        for block in chosen:
            ids = np.array(store.block_ids(block))
            images = torch.from_numpy(store.images[ids]).to(device)
            views = view_set[ids]
            if not np.array_equal(views, description.draw(ids)):
                other_views.append(block)
            values = label_views(teacher, images, views, description, label_set.codec.input)
            fresh, stored = coder.decode(coder.encode(values)), label_set.logits(ids)
            difference = np.abs(fresh - stored)
            largest = max(largest, float(difference.max()))
            total += float(difference.mean(-1, dtype=np.float64).sum())
            changed += int((fresh.argmax(-1) != stored.argmax(-1)).sum())
            views_seen += difference.shape[0] * difference.shape[1]
            quality, there = worker.quality(name, ids, images, store.class_ids[ids], values), label_set.quality[ids]
            quality_off = max(quality_off, float(np.abs(quality - there)[:, 1].max()))
            quality_changed += int((quality[:, 0] != there[:, 0]).sum())
            images_seen += len(ids)
            advance(1)
    result |= {
        "views": views_seen,
        "max_logit_difference": largest,
        "mean_logit_difference": total / views_seen,
        "top1_changed": changed / views_seen,
        "blocks_with_other_views": other_views,
        "max_p_class_difference": quality_off,
        "quality_top1_changed": quality_changed / images_seen,
    }
    findings = []
    if quality_off > P_CLASS_TOLERANCE or quality_changed / images_seen > TOP1_TOLERANCE:
        findings.append(
            Finding(
                ERROR,
                f"{label_set.node}/{QUALITY}",
                f"The teacher's quality is another than what is stored: p(class) differs by up to {quality_off:.3g}, the most "
                f"likely class of {quality_changed / images_seen:.1%} of {images_seen:,} images. Label anew by another --name.",
            )
        )
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
    absent = set(store.missing_blocks())
    chosen = _sample([block for block in blocks if block not in absent], share)
    result: dict[str, Any] = {"blocks": chosen, "images": 0}
    if not chosen:
        return result, [Finding(NOTE, IMAGES, "There are no sound images to compare the generator's with.")]
    assert store.source is not None
    source, threads = parse_source(store.source).weights, labelling_threads(store, device)
    try:
        worker = BlockWorker(WorkOrder(store.path, (), device, threads, generator=source))
    except DmkdError as error:
        return result, [Finding(ERROR, IMAGES, f"The generator was not rerun. {error}")]
    assert worker.generator is not None
    largest, differing, values, other_classes = 0, 0, 0, 0
    other_scores = []
    num_images = sum(len(store.block_ids(block)) for block in chosen)
    with display.task("regenerate", num_images) as advance:
        for block in chosen:
            ids = np.array(store.block_ids(block))
            try:
                images, class_ids, columns = worker.make_images(ids)
            except DmkdError as error:  # of the student or the teacher of a round
                return result, [Finding(ERROR, IMAGES, f"The images of block {block} were not made again. {error}")]
            difference = np.abs(store.as_stored(images.cpu().numpy()).astype(np.int16) - store.images[ids])
            largest = max(largest, int(difference.max()))
            differing += int((difference > 0).sum())
            values += difference.size
            other_classes += int((class_ids != store.class_ids[ids]).sum())
            if columns and not np.allclose(columns[SCORE], store.columns[SCORE][ids], SCORE_TOLERANCE, equal_nan=True):
                other_scores.append(block)
            advance(len(ids))
    result |= {
        "images": num_images,
        "max_difference": largest,
        "share_differing": differing / values,
        "other_class_ids": other_classes,
        **({"blocks_with_other_scores": other_scores} if store.rounds else {}),
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
    if other_scores:
        what = f"The scores of {len(other_scores)} of {len(chosen)} blocks are not those that their students give here."
        findings.append(Finding(WARNING, f"{COLUMNS}/{SCORE}", what))
    return result, findings


def _sample(blocks: Sequence[int], share: float) -> list[int]:
    """A share of the blocks, at least one if there is any, the same ones every time, ascending."""
    count = min(len(blocks), max(1, math.ceil(share * len(blocks))))
    drawn = np.random.Generator(np.random.PCG64(SAMPLE_SEED)).permutation(len(blocks))[:count]
    return [blocks[place] for place in sorted(drawn.tolist())]
