"""Losses against numbers worked out by hand, against each other through autograd, and at the edges of float32."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dmkd.loading.torch_codecs import LabelDecoder
from dmkd.stores import UsageError
from dmkd.stores.codecs.topk import TopKCoder
from dmkd.training.losses import (
    anchored,
    decoupled_kd_loss,
    feature_loss,
    feature_projection,
    hard_label_loss,
    kd_loss,
    scheduled,
    sparse_kd_loss,
)

LN2, LN3 = math.log(2), math.log(3)
NO_TAIL = torch.tensor([-math.inf])


def random_logits(seed, rows, num_classes, scale=3.0):
    return torch.randn(rows, num_classes, generator=torch.Generator().manual_seed(seed)) * scale


def value_and_gradient(loss, student, *arguments):
    student = student.detach().clone().requires_grad_()
    value = loss(student, *arguments)
    value.backward()
    return value.item(), student.grad


# kd_loss


def test_kd_loss_against_numbers_worked_out_by_hand():
    # softmax([ln 3, 0]) = [3/4, 1/4], softmax([0, 0]) = [1/2, 1/2]
    teacher, student = torch.tensor([[LN3, 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kd_loss(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-6)
    # At T = 2 the teacher's logits count half: the same numbers from logits twice as large, times T squared.
    assert kd_loss(student, 2 * teacher, 2.0).item() == pytest.approx(4 * expected, rel=1e-6)


def test_kd_loss_is_a_mean_over_the_batch():
    teacher, student = random_logits(0, 6, 5), random_logits(1, 6, 5)
    each = torch.stack([kd_loss(student[i : i + 1], teacher[i : i + 1], 4.0) for i in range(6)])
    assert kd_loss(student, teacher, 4.0).item() == pytest.approx(each.mean().item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_the_gradient_is_t_times_the_difference_of_the_softmaxes(temperature):
    # Hinton et al. 2015, equation 2, times T squared.
    teacher, student = random_logits(0, 3, 7).double(), random_logits(1, 3, 7)
    _, gradient = value_and_gradient(kd_loss, student, teacher, temperature)
    q = torch.softmax(student / temperature, 1)
    p = torch.softmax(teacher.float() / temperature, 1)
    torch.testing.assert_close(gradient, temperature * (q - p) / 3, rtol=1e-4, atol=1e-6)


def test_nothing_is_lost_when_student_and_teacher_agree():
    logits = random_logits(0, 4, 9, scale=20)
    assert kd_loss(logits, logits + 5, 10.0).item() == pytest.approx(0, abs=1e-5)


def test_half_precision_logits_are_computed_in_single_precision():
    student, teacher = random_logits(0, 4, 100), random_logits(1, 4, 100)
    loss = kd_loss(student.bfloat16(), teacher.bfloat16(), 1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(kd_loss(student.bfloat16().float(), teacher.bfloat16().float(), 1.0).item())


def test_mixed_precision_changes_no_loss():
    student, teacher, class_ids = random_logits(0, 8, 50), random_logits(1, 8, 50), torch.arange(8)
    ids, kept, tail, _ = exact_sparse(teacher, 7, 4.0)
    projection = feature_projection(50, 30)
    losses = [
        lambda: kd_loss(student, teacher, 4.0),
        lambda: sparse_kd_loss(student, ids, kept, tail, 4.0),
        lambda: decoupled_kd_loss(student, teacher, class_ids, 4.0),
        lambda: hard_label_loss(student, class_ids, 0.1),
        lambda: feature_loss(student, teacher[:, :30], projection),
    ]
    for loss in losses:
        with torch.autocast("cpu", torch.bfloat16):
            mixed = loss()
        assert mixed.dtype == torch.float32 and torch.equal(mixed, loss())


# sparse_kd_loss


def exact_sparse(logits, k, temperature):
    """A teacher's k largest logits and its tail's exact weight at T, and the dense row whose tail is spread evenly."""
    kept, ids = logits.topk(k, dim=1)
    num_tail = logits.shape[1] - k
    tail = logits.scatter(1, ids, -math.inf).div(temperature).logsumexp(1)
    dense = (temperature * (tail - math.log(max(num_tail, 1))))[:, None].expand_as(logits).scatter(1, ids, kept)
    return ids, kept, tail, dense


def stored(logits, k):
    """Logits through the topk codec: its arrays of one view, and their decoder."""
    coder = TopKCoder(logits.shape[1], k)
    arrays = {name: torch.from_numpy(array[:, 0]) for name, array in coder.encode(logits[:, None].numpy()).items()}
    return arrays, LabelDecoder(coder)


def sparse_arguments(arrays, decoder, temperature):
    return *decoder.sparse(arrays), decoder.tail_log_mass(arrays, temperature), temperature


def test_sparse_kd_loss_against_numbers_worked_out_by_hand():
    # Of four classes, class 2 is kept with logit ln 3; the three others weigh 1 together: p = [1/12, 1/12, 3/4, 1/12].
    # The student's q = [1/6, 1/6, 1/6, 1/2].
    student = torch.tensor([[0.0, 0.0, 0.0, LN3]])
    ids, logits, tail = torch.tensor([[2]]), torch.tensor([[LN3]]), torch.tensor([0.0])
    expected = 0.75 * math.log(0.75 * 6) + 2 * math.log(6 / 12) / 12 + math.log(2 / 12) / 12
    assert sparse_kd_loss(student, ids, logits, tail, 1.0).item() == pytest.approx(expected, rel=1e-6)
    # The same probabilities at T = 2, from logits twice as large; the tail's weight is given at T.
    assert sparse_kd_loss(2 * student, ids, 2 * logits, tail, 2.0).item() == pytest.approx(4 * expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("k", [1, 5, 49, 50])
def test_sparse_kd_loss_is_kd_loss_on_what_the_codec_decodes(k, temperature):
    teacher, student = random_logits(0, 6, 50), random_logits(1, 6, 50)
    arrays, decoder = stored(teacher, k)
    value, gradient = value_and_gradient(sparse_kd_loss, student, *sparse_arguments(arrays, decoder, temperature))
    dense = decoder.decode(arrays, temperature)
    np.testing.assert_allclose(dense, decoder.coder.decode(arrays_as_numpy(arrays), temperature), rtol=1e-4, atol=1e-4)
    expected, expected_gradient = value_and_gradient(kd_loss, student, dense, temperature)
    assert value == pytest.approx(expected, rel=2e-5, abs=1e-6 * temperature**2)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=2e-6)


def arrays_as_numpy(arrays):
    return {name: array.numpy() for name, array in arrays.items()}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 7.0])
@pytest.mark.parametrize("tail", [-math.inf, 0.0, 50.0])
def test_all_classes_kept_is_the_dense_loss_whatever_the_tail_says(temperature, tail):
    teacher, student = random_logits(0, 5, 12), random_logits(1, 5, 12)
    ids = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(i)) for i in range(5)])
    arguments = ids, teacher.gather(1, ids), torch.full((5,), tail), temperature
    value, gradient = value_and_gradient(sparse_kd_loss, student, *arguments)
    expected, expected_gradient = value_and_gradient(kd_loss, student, teacher, temperature)
    assert value == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    num_classes=st.integers(2, 40),
    share=st.floats(0, 1),
    temperature=st.sampled_from([0.5, 1.0, 3.0, 20.0]),
    teacher_scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e3, 1e4]),
    student_scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e3, 1e4]),
)
def test_sparse_and_dense_agree_at_every_size_of_logits(
    seed, num_classes, share, temperature, teacher_scale, student_scale
):
    k = 1 + round(share * (num_classes - 1))
    teacher = random_logits(seed, 3, num_classes, teacher_scale)
    student = random_logits(seed + 1, 3, num_classes, student_scale)
    ids, kept, tail, dense = exact_sparse(teacher, k, temperature)
    value, gradient = value_and_gradient(sparse_kd_loss, student, ids, kept, tail, temperature)
    # The reference is the definition, in float64.
    wide = student.double().requires_grad_()
    log_p = F.log_softmax(dense.double() / temperature, 1)
    reference = (log_p.exp() * (log_p - F.log_softmax(wide / temperature, 1))).sum() / 3 * temperature**2
    reference.backward()
    size = 1 + (teacher_scale + student_scale) / temperature  # of the terms whose sum this is
    assert value == pytest.approx(reference.item(), rel=1e-4, abs=1e-5 * size * temperature**2)
    torch.testing.assert_close(gradient.double(), wide.grad, rtol=1e-3, atol=1e-5 * size * temperature)
    assert value > -1e-5 * size * temperature**2


@pytest.mark.parametrize("k", [1, 9, 10])
@pytest.mark.parametrize("scale", [0.0, 10.0, 1e4, 6e4])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_confident_rows_have_finite_losses_and_gradients(k, scale, temperature):
    teacher = torch.zeros(2, 10)
    teacher[:, 3] = scale  # up to where float16 ends
    arrays, decoder = stored(teacher, k)
    student = torch.stack([teacher[0], -teacher[0]])  # as sure, and as sure of the contrary
    value, gradient = value_and_gradient(sparse_kd_loss, student, *sparse_arguments(arrays, decoder, temperature))
    assert math.isfinite(value) and gradient.isfinite().all()
    if scale < 10 or k == 10:  # the tail's mean alone is exact here
        dense, _ = value_and_gradient(kd_loss, student, teacher, temperature)
        assert value == pytest.approx(dense, rel=1e-4, abs=1e-4)


def test_a_tail_that_weighs_nothing_is_a_teacher_sure_of_the_classes_kept():
    student = torch.tensor([[0.0, 0.0, LN2]])  # q = [1/4, 1/4, 1/2]
    value, gradient = value_and_gradient(
        sparse_kd_loss, student, torch.tensor([[2]]), torch.tensor([[7.0]]), NO_TAIL, 1.0
    )
    assert value == pytest.approx(LN2)
    torch.testing.assert_close(gradient, torch.tensor([[0.25, 0.25, -0.5]]))


def test_missing_labels_make_the_loss_nan_rather_than_vanish():
    student, ids, logits = torch.zeros(1, 4), torch.tensor([[0, 1]]), torch.tensor([[1.0, 0.0]])
    missing = torch.tensor([math.nan])
    assert sparse_kd_loss(student, ids, logits, missing, 1.0).isnan()
    assert sparse_kd_loss(student, ids, logits * math.nan, torch.zeros(1), 1.0).isnan()


def test_half_precision_students_and_labels_are_computed_in_single_precision():
    teacher, student = random_logits(0, 4, 100).half(), random_logits(1, 4, 100).bfloat16()
    ids, kept, tail, _ = exact_sparse(teacher.float(), 10, 4.0)
    loss = sparse_kd_loss(student, ids, kept.half(), tail, 4.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(sparse_kd_loss(student.float(), ids, kept, tail, 4.0).item(), rel=1e-6)


# What released systems got wrong about labels that are stored in part. Each test first shows the wrong formula's number.


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_teacher_and_student_are_normalised_over_the_same_classes(temperature):
    # Teacher normalised over k, student over C: a student that is the teacher is still pushed.
    ids, kept, tail, dense = exact_sparse(random_logits(0, 4, 100, 1.0), 10, temperature)
    over_k = F.log_softmax(kept / temperature, 1)
    log_q = F.log_softmax(dense / temperature, 1).gather(1, ids)
    assert (over_k.exp() * (over_k - log_q)).sum(1).mean() > 0.5
    value, gradient = value_and_gradient(sparse_kd_loss, dense, ids, kept, tail, temperature)
    assert value == pytest.approx(0, abs=1e-6 * temperature**2)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


@pytest.mark.parametrize("temperature", [2.0, 10.0])
def test_the_tail_is_many_classes_at_every_temperature_not_one_ghost(temperature):
    # The tail's probability at T = 1, raised to 1 / T as if it were one class's, is far from its weight at T.
    teacher, student = random_logits(0, 4, 1000, 1.0), random_logits(1, 4, 1000)
    ids, kept, tail, dense = exact_sparse(teacher, 50, temperature)
    _, _, at_one, _ = exact_sparse(teacher, 50, 1.0)
    exact = torch.softmax(teacher / temperature, 1).gather(1, ids).sum(1)
    ghost = torch.softmax(torch.cat([kept, at_one[:, None]], 1) / temperature, 1)[:, :-1].sum(1)
    assert (ghost - exact).min() > 0.2
    ours, _ = value_and_gradient(sparse_kd_loss, student, ids, kept, tail, temperature)
    assert ours == pytest.approx(kd_loss(student, dense, temperature).item(), rel=1e-4)
    assert sparse_kd_loss(student, ids, kept, at_one / temperature, temperature).item() != pytest.approx(ours, rel=0.1)


def test_logits_are_logits_and_probabilities_are_not():
    # A constant added to all logits of a row says nothing, which no formula that takes them for probabilities knows.
    teacher, student = random_logits(0, 4, 20), random_logits(1, 4, 20)
    ids, kept, tail, _ = exact_sparse(teacher, 5, 4.0)
    loss = sparse_kd_loss(student, ids, kept, tail, 4.0).item()
    assert sparse_kd_loss(student + 3, ids, kept + 8, tail + 2, 4.0).item() == pytest.approx(loss, rel=1e-4)
    # Softmax of probabilities: nearly uniform, so that it is seen when a loss is fed with them.
    assert kd_loss(teacher, teacher, 1.0).item() == pytest.approx(0, abs=1e-6)
    assert kd_loss(teacher, torch.softmax(teacher, 1), 1.0).item() > 1


def test_a_tail_is_never_negative():
    # Half-precision probabilities of a sure teacher add up to more than one; what is left for the tail has no logarithm.
    teacher = torch.full((64, 1000), -14.0)
    teacher[:, :3] = torch.stack([torch.full((64,), 6.0), torch.linspace(-3, 0, 64), torch.linspace(-4, -3, 64)], 1)
    rest = 1 - torch.softmax(teacher, 1)[:, :10].half().float().sum(1)
    assert (rest < 0).any() and rest.log().isnan().any()
    arrays, decoder = stored(teacher, 10)
    value, gradient = value_and_gradient(
        sparse_kd_loss, random_logits(1, 64, 1000), *sparse_arguments(arrays, decoder, 1.0)
    )
    assert math.isfinite(value) and gradient.isfinite().all()


# decoupled_kd_loss


def by_parts(student, teacher, class_ids, temperature):
    """TCKD and NCKD, each with T squared."""
    arguments = student, teacher, class_ids, temperature
    return decoupled_kd_loss(*arguments, alpha=1, beta=0), decoupled_kd_loss(*arguments, alpha=0, beta=1)


def test_decoupled_kd_loss_against_numbers_worked_out_by_hand():
    # Teacher [1/2, 1/3, 1/6], student uniform, target class 0: TCKD of (1/2, 1/2) and (1/3, 2/3), NCKD of (2/3, 1/3) and
    # (1/2, 1/2).
    teacher, student = torch.tensor([[LN3, LN2, 0.0]]), torch.zeros(1, 3)
    target = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    others = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    class_ids = torch.tensor([0])
    tckd, nckd = by_parts(student, teacher, class_ids, 1.0)
    assert tckd.item() == pytest.approx(target, rel=1e-5) and nckd.item() == pytest.approx(others, rel=1e-5)
    assert decoupled_kd_loss(student, teacher, class_ids, 1.0).item() == pytest.approx(target + 8 * others, rel=1e-5)
    assert decoupled_kd_loss(student, 2 * teacher, class_ids, 2.0, 0.5, 3.0).item() == pytest.approx(
        4 * (0.5 * target + 3 * others), rel=1e-5
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("class_id", [0, 3, 6])
def test_kd_is_tckd_plus_nckd_weighted_by_what_the_target_leaves(class_id, temperature):
    teacher, student = random_logits(class_id, 1, 7), random_logits(9, 1, 7)
    left = 1 - torch.softmax(teacher / temperature, 1)[0, class_id].item()
    arguments = teacher, torch.tensor([class_id]), temperature, 1.0, left
    value, gradient = value_and_gradient(decoupled_kd_loss, student, *arguments)
    expected, expected_gradient = value_and_gradient(kd_loss, student, teacher, temperature)
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-6 * temperature**2)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6 * temperature)


def test_decoupled_kd_loss_is_a_mean_over_the_batch_each_with_its_own_class():
    teacher, student, class_ids = random_logits(0, 6, 5), random_logits(1, 6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    each = [decoupled_kd_loss(student[[i]], teacher[[i]], class_ids[[i]], 4.0) for i in range(6)]
    expected = torch.stack(each).mean().item()
    assert decoupled_kd_loss(student, teacher, class_ids, 4.0).item() == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**31),
    num_classes=st.integers(2, 30),
    temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]),
    teacher_scale=st.sampled_from([0.0, 1.0, 30.0, 1e3, 1e4]),
    student_scale=st.sampled_from([0.0, 1.0, 30.0, 1e3, 1e4]),
)
def test_decoupled_kd_loss_is_its_definition_at_every_size_of_logits(
    seed, num_classes, temperature, teacher_scale, student_scale
):
    teacher = random_logits(seed, 3, num_classes, teacher_scale)
    student = random_logits(seed + 1, 3, num_classes, student_scale)
    class_ids = torch.tensor([seed % num_classes, 0, num_classes - 1])
    value, gradient = value_and_gradient(decoupled_kd_loss, student, teacher, class_ids, temperature)
    wide = student.double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row, class_id in enumerate(class_ids.tolist()):
        keep = [i for i in range(num_classes) if i != class_id]
        z, s = teacher[row].double() / temperature, wide[row] / temperature
        for weight, (p, q) in (
            (1, [torch.stack([x[class_id], x[keep].logsumexp(0)]) for x in (z, s)]),
            (8, [x[keep] for x in (z, s)]),
        ):
            log_p, log_q = F.log_softmax(p, 0), F.log_softmax(q, 0)
            total = total + weight * (log_p.exp() * (log_p - log_q)).sum() * temperature**2 / 3
    total.backward()
    size = 1 + (teacher_scale + student_scale) / temperature
    assert value == pytest.approx(total.item(), rel=1e-4, abs=1e-4 * size * temperature**2)
    torch.testing.assert_close(gradient.double(), wide.grad, rtol=1e-3, atol=1e-4 * size * temperature)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_no_part_is_lost_when_student_and_teacher_agree(temperature):
    logits, class_ids = random_logits(0, 4, 9, 20.0), torch.tensor([0, 8, 3, 3])
    value, gradient = value_and_gradient(decoupled_kd_loss, logits, logits + 5, class_ids, temperature)
    assert value == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-4, rtol=0)


# Hard labels, schedules


def test_hard_label_loss_by_hand():
    assert hard_label_loss(torch.tensor([[LN3, 0.0]]), torch.tensor([1])).item() == pytest.approx(math.log(4))


def test_hard_label_loss_of_a_mixed_image_is_each_classes_by_its_share():
    logits = random_logits(0, 4, 6)
    one, other = torch.tensor([0, 1, 2, 3]), torch.tensor([5, 5, 0, 3])
    shares = 0.75 * F.one_hot(one, 6).float() + 0.25 * F.one_hot(other, 6).float()
    expected = 0.75 * hard_label_loss(logits, one) + 0.25 * hard_label_loss(logits, other)
    assert hard_label_loss(logits, shares).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_student_that_is_sure_and_right_loses_nothing_to_the_hard_labels():
    assert hard_label_loss(torch.tensor([[80.0, 0.0]]), torch.tensor([0])).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 4.0), (0.25, 3.25), (1.0, 1.0)])
def test_the_anchor_weighs_the_hard_labels(weight, expected):
    kd, ce = torch.tensor(4.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    loss = anchored(kd, ce, weight)
    loss.backward()
    assert loss.item() == expected
    assert (kd.grad.item(), ce.grad.item()) == (1 - weight, weight)


def test_the_temperature_falls_along_half_a_cosine():
    assert scheduled(0, 20, 2) == 20
    assert scheduled(1, 20, 2) == 2
    assert scheduled(0.5, 20, 2) == pytest.approx(11)
    assert scheduled(1 / 3, 20, 2) == pytest.approx(2 + 18 * 0.75)
    steps = [scheduled(i / 100, 20, 2) for i in range(101)]
    assert all(a > b for a, b in itertools.pairwise(steps))


@given(st.floats(0, 1), st.floats(0.1, 50), st.floats(0.1, 50))
def test_the_temperature_stays_between_its_ends(progress, start, end):
    temperature = scheduled(progress, start, end)
    assert min(start, end) * (1 - 1e-12) <= temperature <= max(start, end) * (1 + 1e-12)
    assert scheduled(progress, start, start) == start == scheduled(progress, start, None)


@pytest.mark.parametrize("progress", [-0.01, 1.01, 30, math.nan])
def test_an_epochs_number_is_no_share_of_the_training(progress):
    with pytest.raises(ValueError, match="share"):
        scheduled(progress, 20, 2)


# Features


def test_feature_loss_by_hand():
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 2.0]])
    assert feature_loss(student, teacher).item() == pytest.approx((1 + 4 + 0 + 4) / 4)
    assert feature_loss(student, student).item() == 0


def test_feature_loss_goes_through_a_projection_that_learns():
    projection = nn.Linear(1, 2)
    with torch.no_grad():
        projection.weight.copy_(torch.tensor([[1.0], [2.0]]))
        projection.bias.copy_(torch.tensor([0.0, 1.0]))
    student = torch.tensor([[3.0]], requires_grad=True)  # projected: 3, 7
    loss = feature_loss(student, torch.tensor([[3.0, 5.0]]), projection)
    loss.backward()
    assert loss.item() == pytest.approx(2)
    # d loss / d projected = [0, 2]
    assert student.grad.tolist() == [[4.0]]
    assert projection.weight.grad.tolist() == [[0.0], [6.0]] and projection.bias.grad.tolist() == [0.0, 2.0]


def test_a_projection_is_made_where_the_widths_differ():
    assert feature_projection(512, 512) is None
    projection = feature_projection(3, 5)
    assert projection(torch.zeros(2, 3)).shape == (2, 5)
    assert feature_loss(torch.randn(2, 3).half(), torch.randn(2, 5).half(), projection).dtype == torch.float32


@pytest.mark.parametrize("width", [1, 3])
def test_widths_that_differ_are_refused_not_broadcast(width):
    with pytest.raises(UsageError, match=rf"\(4, {width}\).*\(4, 2\).*projection"):
        feature_loss(torch.zeros(4, width), torch.zeros(4, 2))


# The same losses run on the CPU above; this adds the device, where there is one.
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_losses_on_a_gpu_are_those_on_a_cpu():
    teacher, student = random_logits(0, 6, 50), random_logits(1, 6, 50)
    ids, kept, tail, _ = exact_sparse(teacher, 7, 4.0)
    for loss, arguments in (
        (sparse_kd_loss, (student, ids, kept, tail)),
        (decoupled_kd_loss, (student, teacher, ids[:, 0])),
    ):
        on_gpu = loss(*(argument.cuda() for argument in arguments), 4.0)
        assert on_gpu.item() == pytest.approx(loss(*arguments, 4.0).item(), rel=1e-4)


def test_label_smoothing_spreads_the_target_evenly():
    logits = torch.randn(4, 5)
    class_ids = torch.tensor([0, 1, 2, 4])
    target = 0.9 * torch.nn.functional.one_hot(class_ids, 5) + 0.1 / 5
    torch.testing.assert_close(hard_label_loss(logits, class_ids, 0.1), hard_label_loss(logits, target))
