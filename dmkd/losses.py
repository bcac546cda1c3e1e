"""Distillation losses over logits: pure functions of tensors.

n images, C classes, T the temperature.
"""

import torch
from torch.nn import functional as F


def kd_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch: a scalar.

    Both float (n, C) logits. T² keeps the size of the gradient independent of T (Hinton, Vinyals & Dean 2015, eq. 2 to 4).
    DM-KD trains with this alone, at T = 10 (Li et al. 2023, released code: ``batchmean``, hard-label term off).
    Computed in float32 whatever the logits' dtype.
    """
    log_p = F.log_softmax(teacher.float() / temperature, dim=1)
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def hard_label_loss(student: torch.Tensor, class_ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of float (n, C) logits with int64 (n,) class ids, mean over the batch: a scalar."""
    return F.cross_entropy(student.float(), class_ids)
