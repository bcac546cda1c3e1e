"""Bytes a view and distance to the exact softmax of every label codec.

    python benchmarks/codecs.py [--json] [--teacher-like]

On teacher-like logits: a random linear head of 1000 classes over sparse, non-negative, heavy-tailed 512-d features with a
decaying spectrum, 64 images of 8 views a chunk. And, where the bundled teachers are installed, on digits-resnet's logits
of the held-out digits. Speeds are this machine's, without compression, and only a rough guide.
"""

import argparse
import json
from typing import Any

import numpy as np

from dmkd.stores.codecs import parse_codec
from dmkd.stores.codecs.report import compare

CODECS = ["float16", "uint8", "features", "features:6", "features:5", "klt:0.25", "klt:0.5", "klt:1", "klt:2"]
CODECS += ["topk:10", "topk:50", "topk:100"]
IMAGES, VIEWS = 64, 8
SAMPLE = 2048


def teacher_like(
    num_rows: int, num_classes: int = 1000, num_features: int = 512, seed: int = 0
) -> dict[str, np.ndarray]:
    """``features`` float32 (m, d), ``weight`` (C, d) and ``logits`` (m, C) of a made-up teacher.

    Features are a rectified and squared mix of Laplacian sources whose standard deviations decay as j^-0.6: 30 % zeros, about 360
    bytes after 8 bits and Zstd. Weights are Student-t with 3 degrees of freedom, scaled so that logits have a standard
    deviation of 1.2 over views, a range of 11.
    """
    rng = np.random.default_rng(seed)
    mix = np.linalg.qr(rng.normal(size=(num_features, num_features)))[0]
    sources = rng.laplace(size=(num_rows, num_features)) * np.arange(1, num_features + 1) ** -0.6 @ mix
    features = np.maximum(sources / sources.std() + 0.5, 0) ** 2
    weight = rng.standard_t(3, size=(num_classes, num_features))
    logits = features @ weight.T
    weight *= 1.2 / (logits - logits.mean(0)).std()
    features, weight = features.astype(np.float32), weight.astype(np.float32)
    return {"features": features, "weight": weight, "logits": features @ weight.T}


def on_teacher_like() -> dict[str, dict[str, Any]]:
    made = teacher_like(SAMPLE + IMAGES * VIEWS)
    features, logits = (made[name][SAMPLE:].reshape(IMAGES, VIEWS, -1) for name in ("features", "logits"))
    codecs = {name: parse_codec(name) for name in CODECS}
    return compare(codecs, logits, made["logits"][:SAMPLE], features=features, weight=made["weight"])


def on_digits() -> dict[str, dict[str, Any]] | None:
    """The same on 360 held-out digits, half of them to fit on; None where the bundled teachers are not installed."""
    from dmkd import digits

    if not (digits.TEACHERS["digits-resnet"] / "config.json").is_file():
        return None
    import torch

    from dmkd.classifiers.load import load_classifier
    from dmkd.views.render import normalise

    teacher = load_classifier("digits-resnet")
    head = teacher.model.get_classifier()
    pixels = torch.from_numpy(digits.heldout()[0]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        maps = teacher.model.forward_features(normalise(pixels, teacher.mean, teacher.std))
        features = teacher.model.forward_head(maps, pre_logits=True)
        logits, features = head(features).numpy(), features.numpy()
        weight, bias = head.weight.numpy(), head.bias.numpy()
    codecs = {name: parse_codec(name) for name in CODECS}
    half = len(logits) // 2
    unseen = {"logits": logits[half:, None], "features": features[half:, None]}
    return compare(codecs, sample=logits[:half], weight=weight, bias=bias, **unseen)


def print_table(title: str, results: dict[str, dict[str, Any]]) -> None:
    print(f"\n{title}\n")
    print(
        f"{'':22}bytes a view        total variation                KL (nats)                          top-1   views/s"
    )
    temperatures = "".join(f"{f'T={t}':>8}" for t in (1, 4, 10, 20))
    print(
        f"{'codec':12}{'encoded':>10}{'on disk':>10}{temperatures}{temperatures.replace('T=', ' T=')}{'':>7}{'enc':>12}{'dec':>9}"
    )
    for name, r in results.items():
        tv = "".join(f"{value:8.4f}" for value in r["tv"].values())
        kl = "".join(f"{value:9.1e}" for value in r["kl"].values())
        raw, stored = r["bytes_per_view_raw"], r["bytes_per_view"]
        speeds = f"{r['encode_views_per_s']:10.0f}{r['decode_views_per_s']:9.0f}"
        print(f"{name:12}{raw:10.0f}{stored:10.1f}{tv}{kl}{r['top1_agreement']:8.3f}{speeds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--json", action="store_true", help="last line: {codec: {bytes_per_view, tv, kl, ...}}, teacher-like"
    )
    parser.add_argument("--teacher-like", action="store_true", help="leave the digits out")
    options = parser.parse_args()
    results = on_teacher_like()
    title = (
        "Teacher-like logits: a random linear head of 1000 classes over 512 sparse, heavy-tailed, non-negative features"
    )
    print_table(f"{title}; {IMAGES * VIEWS} views a chunk, klt fitted on {SAMPLE} others and the head", results)
    if not options.teacher_like:
        digits = on_digits()
        if digits is None:
            print("\nThe bundled digits teachers are not installed: skipped.")
        else:
            print_table("Real logits: digits-resnet on 180 held-out digits (10 classes), fitted on 180 others", digits)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
