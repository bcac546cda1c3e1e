"""Distillation losses over stored labels: pure functions of tensors, computed in float32 whatever comes in.

n images, C classes, k of them kept, T the temperature. Every loss is a scalar, the mean over the batch. What is called logits are
logits, never probabilities: softmax is taken here, at T.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from dmkd.stores import UsageError


def kd_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch: a scalar.

    Both float (n, C) logits. T² keeps the size of the gradient independent of T (Hinton, Vinyals & Dean 2015, eq. 2 to 4).
    DM-KD trains with this alone, at T = 10 (Li et al. 2023, released code: ``batchmean``, hard-label term off).
    Computed in float32 whatever the logits' dtype.
    """
    log_p = F.log_softmax(teacher.float() / temperature, dim=1)
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def sparse_kd_loss(
    student: torch.Tensor, ids: torch.Tensor, logits: torch.Tensor, tail_log_mass: torch.Tensor, temperature: float
) -> torch.Tensor:
    """:func:`kd_loss` of a teacher of which k logits are known and the weight of the rest, without its dense row.

    ``student`` float (n, C) logits; ``ids`` int64 (n, k), distinct in a row, and ``logits`` float (n, k): the classes kept;
    ``tail_log_mass`` float (n,): log Σ exp(z / T) over the C - k classes left out, **at this T**, -inf if they weigh
    nothing (not read if k = C). They share that weight evenly. ``LabelDecoder.sparse`` and ``.tail_log_mass`` give all
    three, and the loss and its gradient are those of ``kd_loss`` on ``LabelDecoder.decode`` at the same T.

    With m the tail's probability and q the student's softmax over all C classes,

        KL = Σ_kept p (log p - log q) + m (log m - log(C - k) - mean_tail log q):

    the tail is one more entry of the teacher's row, set against log(C - k) + the student's mean log q there. Teacher
    and student are thus both normalised over all C classes, and the tail stays C - k classes at every T.
    """
    num_tail = student.shape[1] - ids.shape[1]
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    rows, kept = logits.float() / temperature, log_q.gather(1, ids)
    if num_tail:
        rows = torch.cat([rows, tail_log_mass.float()[:, None]], dim=1)
        # Summed with the kept classes blanked out, not as a difference of two sums, which loses digits as k nears C.
        tail = log_q.scatter(1, ids, 0.0).sum(1, keepdim=True) / num_tail + math.log(num_tail)
        kept = torch.cat([kept, tail], dim=1)
    # Probabilities as the target, not their logs: 0 log 0 is 0 there, so that a tail of mass 0 is harmless.
    return F.kl_div(kept, F.softmax(rows, dim=1), reduction="batchmean") * temperature**2


def decoupled_kd_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    class_ids: torch.Tensor,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> torch.Tensor:
    """T² · (alpha · TCKD + beta · NCKD), mean over the batch: a scalar (Decoupled KD, Zhao et al., CVPR 2022, section 3).

    ``student``, ``teacher`` float (n, C) logits, C > 1; ``class_ids`` int64 (n,): the target classes. TCKD is the KL of
    (p_t, 1 - p_t), the target against all others; NCKD is the KL of the softmax over the others alone. KD itself is
    TCKD + (1 - p_t) NCKD: a confident teacher mutes what it knows of the other classes, and beta sets it free.
    alpha = 1, beta = 8 are the authors' for CIFAR-100 at T = 4, beside the hard-label loss and growing over 20 epochs; on
    ImageNet they take beta = 0.5 at T = 1, growing over one. The released code hides the target by subtracting 1000 from
    its logit and takes logs of sums of probabilities, which reach 0; here the target's column is left out and everything
    stays in logs.
    """
    log_p, log_p_others = _decoupled(teacher.float() / temperature, class_ids)
    log_q, log_q_others = _decoupled(student.float() / temperature, class_ids)
    target = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    others = F.kl_div(log_q_others, log_p_others, reduction="batchmean", log_target=True)
    return (alpha * target + beta * others) * temperature**2


def _decoupled(logits: torch.Tensor, class_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of target and not-target (n, 2), and of the other classes among themselves (n, C - 1)."""
    column = torch.arange(logits.shape[1] - 1, device=logits.device)
    target = class_ids[:, None]
    others = logits.gather(1, column + (column >= target))
    both = torch.cat([logits.gather(1, target), others.logsumexp(1, keepdim=True)], dim=1)
    return F.log_softmax(both, dim=1), F.log_softmax(others, dim=1)


def standardised_kd_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, weight: float = 9.0
) -> torch.Tensor:
    """weight · :func:`kd_loss` of standardised logits: a scalar (logit standardisation, Sun et al., CVPR 2024).

    ``student``, ``teacher`` float (n, C) logits, C > 1. Each row becomes (z - mean) / (s + 1e-7), s the standard deviation
    with C - 1 in its denominator, as in the released code (``--logit-stand``): a student need not match how large its
    teacher's logits are, only how they lie to each other. The authors' for CIFAR-100: T = 2 and weight 9 (T = 3 for some
    pairs), beside 0.1 times the hard-label loss.
    """
    return weight * kd_loss(_standardised(student), _standardised(teacher), temperature)


def _standardised(logits: torch.Tensor) -> torch.Tensor:
    logits = logits.float()
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def dist_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, beta: float = 1.0, gamma: float = 1.0
) -> torch.Tensor:
    """T² · (beta · inter + gamma · intra): a scalar (DIST, Huang et al., NeurIPS 2022).

    ``student``, ``teacher`` float (n, C) logits. Of the softmaxes at T, inter is 1 - Pearson's correlation of student and
    teacher within an image, over the classes, mean over the images; intra is the same within a class, over the images of
    the batch, mean over the classes: it depends on the batch as a whole, so parts of one (``--accumulate``, workers) have
    their own. The released code has beta = gamma = 1 at T = 1, beside as much of the hard-label loss; its 1e-8 beside the
    norms silences classes that nobody finds likely. Re-implementations with a T take 4 and beta = gamma = 2 on CIFAR-100.
    """
    p, q = (F.softmax(logits.float() / temperature, dim=1) for logits in (teacher, student))
    inter, intra = (1 - _correlation(p, q, over).mean() for over in (1, 0))
    return (beta * inter + gamma * intra) * temperature**2


def _correlation(a: torch.Tensor, b: torch.Tensor, over: int) -> torch.Tensor:
    """Pearson's, along one of two dimensions."""
    a, b = (x - x.mean(over, keepdim=True) for x in (a, b))
    return (a * b).sum(over) / (a.norm(dim=over) * b.norm(dim=over) + 1e-8)


def gift_loss(
    student: torch.Tensor, teacher: torch.Tensor, class_ids: torch.Tensor, weight: float = 0.1, smoothing: float = 0.1
) -> torch.Tensor:
    """1 - cosine of the student's logits and refined labels, mean over the batch: a scalar (GIFT, Shang et al., ICLR 2025).

    ``student``, ``teacher`` float (n, C) logits, C > 1; ``class_ids`` int64 (n,): the target classes. The refined label is
    the teacher's row of raw logits at length 1, plus ``weight`` times the smoothed hard label at length 1, which has 1 -
    ``smoothing`` at the target and smoothing / (C - 1) elsewhere. There is no temperature; unlike a softmax's, the loss
    is moved by a constant added to a row. Released code: both constants 0.1.
    """
    student, teacher = student.float(), teacher.float()
    hard = torch.full_like(teacher, smoothing / (teacher.shape[1] - 1)).scatter_(1, class_ids[:, None], 1 - smoothing)
    refined = F.normalize(teacher, dim=1) + weight * F.normalize(hard, dim=1)
    return 1 - F.cosine_similarity(student, refined, dim=1).mean()


def hard_label_loss(student: torch.Tensor, class_ids: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of float (n, C) logits with int64 (n,) class ids, mean over the batch: a scalar.

    ``class_ids`` may be float (n, C) too: the share of each class in a mixed image, 1 in all. ``smoothing`` in [0, 1) of
    the target is spread evenly over all classes (Szegedy et al. 2016, section 7).
    """
    return F.cross_entropy(student.float(), class_ids, label_smoothing=smoothing)


def anchored(kd: torch.Tensor, ce: torch.Tensor, weight: float) -> torch.Tensor:
    """(1 - weight) · kd + weight · ce: a distillation loss held by the hard labels, ``weight`` in [0, 1].

    A weight that changes over the run (:func:`scheduled`) leads from one kind of label to the other.

    Hinton et al. 2015, section 2, who found a considerably lower weight on the hard labels best. Both losses scalars; as kd
    carries T², the balance holds at every T.
    """
    return (1 - weight) * kd + weight * ce


def scheduled(progress: float, start: float, end: float | None) -> float:
    """What goes from ``start`` to ``end`` over a training, at ``progress`` in [0, 1] of it: half a cosine; None: it stays.

    A temperature from 20 to 2 makes one stored row of logits teach different things early and late: "dynamic knowledge
    reuse" (LPQLD, Xiao & He, TPAMI 2026, section III-D; released code: ``--temp_scheduler cosine``, which drops T² on
    ImageNet, so that there the schedule of T is one of the gradient's size too; :func:`kd_loss` keeps T²). Raises
    ``ValueError`` outside [0, 1].
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is a share of the training, from 0 to 1, not {progress}")
    if end is None:
        return start
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def feature_projection(student_width: int, teacher_width: int) -> nn.Linear | None:
    """What takes a student's features to a teacher's width, trained with the student; ``None`` if the widths agree."""
    return None if student_width == teacher_width else nn.Linear(student_width, teacher_width)


def feature_loss(
    student_features: torch.Tensor, teacher_features: torch.Tensor, projection: nn.Linear | None = None
) -> torch.Tensor:
    """Squared error between features, mean over batch and components: a scalar (FitNets, Romero et al. 2015, eq. 3).

    ``student_features`` float (n, ds), ``teacher_features`` float (n, dt), ``projection`` float32 ds -> dt, as
    :func:`feature_projection` makes it. FitNets regress through a convolution and halve a sum; the mean makes the loss's
    weight independent of the width. Raises ``UsageError`` if the widths differ after the projection.
    """
    student_features = student_features.float()
    if projection is not None:
        with torch.autocast(student_features.device.type, enabled=False):
            student_features = projection(student_features)
    if student_features.shape != teacher_features.shape:  # torch would broadcast
        raise UsageError(
            f"Features of the student {tuple(student_features.shape)} and of the teacher {tuple(teacher_features.shape)} "
            "can't be compared: give a projection from the one width to the other."
        )
    return F.mse_loss(student_features, teacher_features.float())
