"""A trained student as a folder that others can use: weights, configuration, a model card, ONNX if wanted."""

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd.cards.model_card import model_card
from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.load import load_classifier
from dmkd.runtime.whole_files import writing
from dmkd.stores.errors import DmkdError, UsageError
from dmkd.training.run_folder import BEST, CHECKPOINT, STUDENT, STUDENTS, SUMMARY

ONNX_TOLERANCE = 1e-3  # of a logit, relative to the largest


def export_student(run: Path, to: Path, *, which: str = STUDENT, onnx: bool = False) -> dict[str, Any]:
    """Write ``to``: ``config.json`` and ``model.safetensors`` (timm's local-dir format), ``README.md``, and ``model.onnx``.

    ``run`` is the folder of a finished training run. Raises ``UsageError`` if it is none, or has no such student, or if
    ``to`` is not empty; ``DmkdError`` if the ONNX model's logits are not the student's; ``StoreWriteError`` if the disk fails.
    Returns what was written.
    """
    if which not in STUDENTS:
        raise UsageError(f"--which must be one of {', '.join(STUDENTS)}, not {which!r}.")
    summary = _read_summary(run)
    source = run / which
    if not (source / "config.json").exists():
        why = "it was not measured on images while training (--val)" if which == BEST else "the folder is damaged"
        raise UsageError(f"{run} has no {which}: {why}.")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UsageError(f"{to} exists already: export to a new folder.")
    if onnx:
        _require_onnx()
    student = load_classifier(str(source))  # loads, or says why not, before anything is written
    temporary = to.with_name(f"{to.name}.{os.getpid()}.tmp")
    with writing(to):
        try:
            temporary.mkdir(parents=True)
            for name in ("config.json", "model.safetensors"):
                shutil.copy2(source / name, temporary / name)
            (temporary / "README.md").write_text(model_card(summary, which))
            difference = _export_onnx(student, temporary / "model.onnx") if onnx else None
            if to.exists():
                to.rmdir()
            temporary.rename(to)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return {
        "folder": str(to),
        "files": sorted(file.name for file in to.iterdir()),
        "architecture": student.architecture,
        "sha256": student.sha256,
        "onnx_difference": difference,
    }


def _read_summary(run: Path) -> dict[str, Any]:
    try:
        return json.loads((run / SUMMARY).read_text())
    except FileNotFoundError as error:
        if (run / CHECKPOINT).exists():
            raise UsageError(f"{run} is not finished: rerun the same `dmkd train-student` to resume it.") from error
        raise UsageError(f"{run} was not written by `dmkd train-student`: it has no {SUMMARY}.") from error
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{run / SUMMARY} can't be read ({type(error).__name__}): train again to another --out."
        ) from error


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UsageError(f"--onnx needs {' and '.join(missing)}, which are not installed: pip install 'dmkd[onnx]'.")


def _export_onnx(student: Classifier, file: Path) -> float | None:
    """Write the student as ONNX: float32 ``pixels`` (n, 3, S, S), normalised as timm's transform does, -> ``logits`` (n, C).

    Returns the largest difference of a logit between torch and onnxruntime, relative to the largest logit; None if
    onnxruntime is not installed. Raises ``DmkdError`` if it is more than rounding.
    """
    size = student.input_size
    example = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("n")
    try:
        torch.onnx.export(
            student.model,
            (example,),
            str(file),
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # torch.export's own errors have no common class
        reason = (str(error).strip().splitlines() or [""])[0]
        raise DmkdError(
            f"torch can't export {student.architecture} to ONNX ({type(error).__name__}: {reason})."
        ) from error
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    more = torch.cat([example, example[:1]])  # another batch size than the one that was traced
    (found,) = session.run(None, {"pixels": more.numpy()})
    with torch.inference_mode():
        expected = student.model(more).numpy()
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not difference <= ONNX_TOLERANCE:
        raise DmkdError(f"The ONNX model's logits differ from the student's by {difference:.2g} of the largest.")
    return difference
