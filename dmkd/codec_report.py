"""What every label codec would cost and lose on a store's own images and a teacher's own logits."""

from functools import partial
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.load import load_classifier
from dmkd.classifiers.teachers import load_teacher
from dmkd.generators.sources import source_defaults
from dmkd.making.fitting import blocks_to_fit_on, views_to_fit_on
from dmkd.making.label_sets import LabelRequest, view_set_for
from dmkd.making.labelling import label_views
from dmkd.recipes.class_list import classes_of
from dmkd.runtime.devices import default_cpu_threads, make_deterministic
from dmkd.runtime.progress import Display
from dmkd.stores import MissingBlockError, Store, parse_codec
from dmkd.stores.codecs import CODECS
from dmkd.stores.codecs.report import compare


def codec_report(
    store: Store, teacher: str, codecs: tuple[str, ...], *, views: str | None, device: str, display: Display
) -> dict[str, Any]:
    """Label some blocks with a teacher, in memory, and measure the codecs on them; nothing is written to the store.
    Without ``codecs``: all of them, in their usual sizes.

    Codecs are fitted on some views of the first blocks (2048 views, or half of the blocks) and measured on the next one, all
    views of it, which are one chunk:
    ``{"views": ..., "codecs": {codec: {"bytes_per_view": ..., "tv": {"1": ...}, ...}}}``, see
    :func:`dmkd.stores.codecs.report.measure`. Codecs that can't serve this teacher are left out.
    """
    make_deterministic(device, default_cpu_threads() if device == "cpu" else None)
    usual = [text for codec in CODECS.values() for text in codec.usual or (codec.example,)]
    parsed = {name: parse_codec(name) for name in codecs or usual}
    classifier = load_teacher(teacher, classes_of(store), f"{store.path} has", partial(load_classifier, device=device))
    usual_views = source_defaults(store.source)["views"]
    request = LabelRequest([classifier], parse_codec("float16"), views, default_views=usual_views)
    description = view_set_for(store, request, classifier)
    stored = store.views.get(description.name)
    missing = set(store.missing_blocks())
    blocks = [block for block in range(store.num_blocks) if block not in missing]
    if len(blocks) < 2:
        raise MissingBlockError(f"{store.path} has {len(blocks)} finished blocks; a codec report needs two or more.")
    fitting = min(blocks_to_fit_on(description.num_views, store.block_size), len(blocks) // 2)
    chosen = blocks[: fitting + 1]
    num_images = sum(len(store.block_ids(block)) for block in chosen[:-1])

    head = classifier.head()
    inputs, logits = [], []
    with display.task(f"label with {classifier.name}", len(chosen), unit="blocks") as advance:
        for block in chosen:
            ids = np.array(store.block_ids(block))
            rows = stored.rows.block(block) if stored and stored.has_block(block) else description.draw(ids)
            if block != chosen[-1]:
                rows = rows[:, views_to_fit_on(description.num_views, num_images, block)]
            images = torch.from_numpy(store.images.block(block)).to(device)
            logits.append(label_views(classifier, images, rows, description))
            if head is not None and block == chosen[-1]:
                inputs.append(label_views(classifier, images, rows, description, "features"))
            advance(1)
    sample = np.concatenate([one.reshape(-1, classifier.num_classes) for one in logits[:-1]])
    weight, bias = head if head is not None else (None, None)
    measured = compare(parsed, logits[-1], sample, features=inputs[0] if inputs else None, weight=weight, bias=bias)
    return {
        "store": store.path,
        "teacher": classifier.to_json(),
        "view_set": description.name,
        "fitted_on_views": len(sample),
        "measured_on_views": logits[-1].shape[0] * logits[-1].shape[1],
        "codecs": measured,
    }
