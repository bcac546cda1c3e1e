"""What a finished student is measured by, on images that it was not trained on."""

from typing import Any

import numpy as np

from dmkd.classifiers.evaluate import Evaluation, Predictions


def measured(student: Predictions, teacher: Predictions | None, num_classes: int) -> dict[str, Any]:
    """Shares in [0, 1], JSON-able: ``top1``, ``top5``; ``top1_halves``, of a half to choose by and one to report on;
    ``calibration_error``; ``agreement_with_teacher``: of the images, how many student and teacher take for the same class, None
    without a teacher. The teacher's predictions are of the same images in the same order."""
    counts = Evaluation.of(student, num_classes)
    agreement = None if teacher is None else float(np.mean(student.top[:, 0] == teacher.top[:, 0]))
    return {
        "images": counts.num_images,
        "top1": counts.top1,
        "top5": counts.top5,
        "top1_halves": [float(np.mean(student.right[half])) for half in student.halves()],
        "calibration_error": student.calibration_error,
        "agreement_with_teacher": agreement,
    }
