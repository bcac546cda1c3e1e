import math

import pytest
import torch

from dmkd.losses import hard_label_loss, kd_loss


def test_kd_loss_against_numbers_worked_out_by_hand():
    # softmax([ln 3, 0]) = [3/4, 1/4], softmax([0, 0]) = [1/2, 1/2]
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kd_loss(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-6)
    # At T = 2 the teacher's logits count half: the same numbers from logits twice as large, times T squared.
    assert kd_loss(student, 2 * teacher, 2.0).item() == pytest.approx(4 * expected, rel=1e-6)


def test_kd_loss_is_a_mean_over_the_batch():
    teacher, student = torch.randn(6, 5), torch.randn(6, 5)
    each = torch.stack([kd_loss(student[i : i + 1], teacher[i : i + 1], 4.0) for i in range(6)])
    assert kd_loss(student, teacher, 4.0).item() == pytest.approx(each.mean().item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_the_gradient_is_t_times_the_difference_of_the_softmaxes(temperature):
    # Hinton et al. 2015, equation 2, times T squared.
    teacher, student = torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 7, requires_grad=True)
    kd_loss(student, teacher, temperature).backward()
    q = torch.softmax(student.detach() / temperature, 1)
    p = torch.softmax(teacher.float() / temperature, 1)
    torch.testing.assert_close(student.grad, temperature * (q - p) / 3, rtol=1e-4, atol=1e-6)


def test_nothing_is_lost_when_student_and_teacher_agree():
    logits = torch.randn(4, 9) * 20
    assert kd_loss(logits, logits + 5, 10.0).item() == pytest.approx(0, abs=1e-5)


def test_half_precision_logits_are_computed_in_single_precision():
    student, teacher = torch.randn(4, 100), torch.randn(4, 100)
    loss = kd_loss(student.bfloat16(), teacher.bfloat16(), 1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(kd_loss(student.bfloat16().float(), teacher.bfloat16().float(), 1.0).item())


def test_hard_label_loss_by_hand():
    assert hard_label_loss(torch.tensor([[math.log(3), 0.0]]), torch.tensor([1])).item() == pytest.approx(math.log(4))
