"""The bundled digits: a small but fully trained pipeline, its teachers, and held-out real digits to test students on.

``PIPELINE`` is a diffusers ``DiTPipeline`` folder (learned variance, null class 10), ``ONE_STEP`` a transformer that takes its
20 steps at once, ``TEACHERS`` maps names to timm
``local-dir`` folders, ``heldout()`` gives 360 digits that nothing here was trained on. ``python -m dmkd.digits.build``
made all of them; what each reached is in ``build_log.json``. Importing this package imports neither torch nor
scikit-learn.

The digits are scikit-learn's ``load_digits``: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits",
UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0; here upsampled from 8x8 to 32x32.
"""

import json
from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).resolve().parent

PIPELINE = _FOLDER / "pipeline"
ONE_STEP = _FOLDER / "one_step"
GENERATORS = ("digits", "digits-one-step")  # what stores of the pipeline's and the one-step generator's images record
TEACHERS = {name: _FOLDER / "teachers" / name for name in ("digits-resnet", "digits-vit", "digits-weak")}
BUILD_LOG = _FOLDER / "build_log.json"


def heldout() -> tuple[np.ndarray, np.ndarray]:
    """The held-out digits: images uint8 (360, 32, 32, 3) and class ids int32 (360,)."""
    with np.load(_FOLDER / "heldout.npz") as arrays:
        return arrays["images"], arrays["class_ids"]


def defaults() -> dict:
    """Defaults for this pipeline and its students: ``pipeline/defaults.json``."""
    return json.loads((PIPELINE / "defaults.json").read_text())
