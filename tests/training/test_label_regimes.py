"""Soft and hard labels, and what leads from one to the other; newer losses against their authors' formulas."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import TEACHER, filled_store, new_store

from dmkd.cli.main import main
from dmkd.cli.training_progress import print_recipe
from dmkd.loading import Batch, Loader
from dmkd.loading.decoding import BatchDecoder
from dmkd.stores import UsageError, parse_codec
from dmkd.training.conditions import Axes, plan_runs
from dmkd.training.execution import Execution
from dmkd.training.loss_table import LOSSES, Setting
from dmkd.training.losses import dist_loss, gift_loss, kd_loss, standardised_kd_loss
from dmkd.training.objective import Objective
from dmkd.training.training_recipe import resolve_training

FAST = {"student": "test_resnet", "epochs": 1, "batch_size": 16, "lr": 0.01}
LN3 = math.log(3)


def random_logits(seed, rows=6, num_classes=7, scale=3.0):
    return torch.randn(rows, num_classes, generator=torch.Generator().manual_seed(seed)) * scale


# By hand


def test_standardised_kd_by_hand():
    # [6, 0] and [0, 2] have the mean in their middle and, with n - 1, the standard deviations 3 sqrt 2 and sqrt 2: both rows
    # become +-1/sqrt 2. At T = 1/(sqrt 2 ln 3) their softmaxes are [9/10, 1/10] and [1/10, 9/10].
    temperature = 1 / (math.sqrt(2) * LN3)
    student, teacher = torch.tensor([[0.0, 2.0]]), torch.tensor([[6.0, 0.0]])
    expected = 0.8 * math.log(9) * temperature**2
    assert standardised_kd_loss(student, teacher, temperature, 1.0).item() == pytest.approx(expected, rel=1e-5)
    assert standardised_kd_loss(student, teacher, temperature).item() == pytest.approx(9 * expected, rel=1e-5)


def test_standardised_kd_asks_for_no_size_of_logits():
    student, teacher = random_logits(0), random_logits(1)
    loss = standardised_kd_loss(student, teacher, 2.0).item()
    assert standardised_kd_loss(5 * student - 3, teacher / 4 + 7, 2.0).item() == pytest.approx(loss, rel=1e-4)
    assert kd_loss(5 * student, teacher / 4, 2.0).item() != pytest.approx(loss, rel=0.1)


def test_dist_by_hand():
    # Softmaxes of two images over two classes: teacher [[3/4, 1/4], [1/2, 1/2]], student [[1/4, 3/4], [1/2, 1/2]]. The first
    # image's rows run against each other (-1), the second's are level (0): inter = 1 + 1/2. Both classes' columns run against
    # each other: intra = 2.
    teacher, student = torch.tensor([[LN3, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, LN3], [0.0, 0.0]])
    assert dist_loss(student, teacher, 1.0, 1.0, 0.0).item() == pytest.approx(1.5, rel=1e-5)
    assert dist_loss(student, teacher, 1.0, 0.0, 1.0).item() == pytest.approx(2.0, rel=1e-5)
    assert dist_loss(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * 3.5, rel=1e-5)


def test_gift_by_hand():
    # Teacher [3, 4] at length 1: [3/5, 4/5]. Without smoothing the hard label of class 0 is [1, 0] already; half of it added
    # gives [11/10, 4/5], and the student [1, 0] has the cosine 11/sqrt(11^2 + 8^2) with that.
    arguments = torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([0])
    assert gift_loss(*arguments, 0.5, 0.0).item() == pytest.approx(1 - 11 / math.sqrt(185), rel=1e-5)
    # Smoothed by 1/4 over two classes: [3/4, 1/4], at length 1 [3, 1]/sqrt 10.
    refined = np.array([0.6, 0.8]) + 0.1 * np.array([3, 1]) / math.sqrt(10)
    expected = 1 - refined[0] / math.hypot(*refined)
    assert gift_loss(*arguments, smoothing=0.25).item() == pytest.approx(expected, rel=1e-5)


# Against the formulas, written naively in float64


def naive_softmax(z, temperature):
    e = np.exp(z / temperature - (z / temperature).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def naive_standardised(s, t, class_ids, temperature):
    s, t = ((z - z.mean(1, keepdims=True)) / z.std(1, ddof=1, keepdims=True) for z in (s, t))
    p, q = naive_softmax(t, temperature), naive_softmax(s, temperature)
    return 9 * temperature**2 * np.mean((p * np.log(p / q)).sum(1))


def naive_dist(s, t, class_ids, temperature):
    p, q = naive_softmax(t, temperature), naive_softmax(s, temperature)
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    return temperature**2 * (inter + intra)


def naive_gift(s, t, class_ids, temperature):
    cosines = []
    for student, teacher, class_id in zip(s, t, class_ids, strict=True):
        hard = np.array([0.9 if i == class_id else 0.1 / (len(teacher) - 1) for i in range(len(teacher))])
        refined = teacher / np.linalg.norm(teacher) + 0.1 * hard / np.linalg.norm(hard)
        cosines.append(student @ refined / np.linalg.norm(student) / np.linalg.norm(refined))
    return 1 - np.mean(cosines)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize(
    ("loss", "naive"), [("standardised", naive_standardised), ("dist", naive_dist), ("gift", naive_gift)]
)
def test_a_loss_is_its_formula(loss, naive, scale, temperature):
    student, teacher, class_ids = random_logits(0, scale=scale), random_logits(1, scale=scale), torch.arange(6)
    options = {word: option.default for word, option in LOSSES[loss].options.items()}
    computed, likeliest = LOSSES[loss].compute(FakeBatch(teacher, class_ids), student, Setting(temperature, 0, options))
    expected = naive(*(x.double().numpy() for x in (student, teacher)), class_ids.numpy(), temperature)
    assert computed.item() == pytest.approx(expected, rel=1e-4) and torch.equal(likeliest, teacher.argmax(1))


@dataclasses.dataclass
class FakeBatch:
    teacher: torch.Tensor
    class_ids: torch.Tensor
    labels = ()

    def logits(self, temperature=1.0):
        return self.teacher


NEW = {
    "standardised": lambda s, t: standardised_kd_loss(s, t, 2.0),
    "dist": lambda s, t: dist_loss(s, t, 1.0),
    "gift": lambda s, t: gift_loss(s, t, torch.zeros(len(t), dtype=torch.int64)),
}


@pytest.mark.parametrize("loss", NEW)
def test_losses_are_single_precision_and_finite_where_rows_are_level_or_sure(loss):
    student, teacher = random_logits(2, 4, 50), random_logits(3, 4, 50)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = NEW[loss](student, teacher)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, NEW[loss](student, teacher))
    assert NEW[loss](student.bfloat16(), teacher.half()).dtype == torch.float32
    level, sure = torch.zeros(1, 10), torch.zeros(1, 10).index_fill(1, torch.tensor([3]), 6e4)
    for rows in ((level, level), (level, sure), (sure, level), (sure, -sure)):
        student = rows[0].clone().requires_grad_()
        value = NEW[loss](student, rows[1])
        value.backward()
        assert value.isfinite() and student.grad.isfinite().all()


# The teacher's argmax


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("regimes") / "s.zarr", num_images=32, image_shape=(32, 32, 3))


def batch_of(store, **options):
    return next(Loader(store, batch_size=16, seed=0, device="cpu", **options).epoch(0))


def test_argmax_is_the_class_that_the_teacher_finds_likeliest_in_the_view_seen(store):
    batch = batch_of(store, labels={"teacher": 1.0}, view_set="views")
    logits, setting = random_logits(4, 16, 10), Setting(1.0, 0.0, {})
    loss, likeliest = LOSSES["argmax"].compute(batch, logits, setting)
    assert torch.equal(likeliest, batch.logits().argmax(1)) and not torch.equal(likeliest, batch.class_ids)
    own = logits.double().log_softmax(1)[torch.arange(16), likeliest]
    assert loss.item() == pytest.approx(-own.mean().item(), rel=1e-5)


def test_argmax_of_two_teachers_is_that_of_their_mean_probabilities():
    """Class 1 by 0.56 to 0.44; class 0 by the mean of their logits, and by that of their probabilities at T = 10."""
    said = {"sure": torch.tensor([[0.9999, 0.0001]]).log(), "unsure": torch.tensor([[0.2, 0.8]]).log()}
    decoders = {name: SimpleNamespace(decode=lambda arrays, temperature: arrays["logits"]) for name in said}
    decoder = BatchDecoder(None, decoders, {"sure": 0.3, "unsure": 0.7}, "cpu")
    labels = {name: {"logits": logits} for name, logits in said.items()}
    batch = Batch(decoder, np.zeros(1), torch.zeros(1), torch.zeros(1), np.zeros((1, 5)), labels)
    assert batch.logits(10.0).argmax(1).tolist() == [0]
    _, likeliest = LOSSES["argmax"].compute(batch, torch.zeros(1, 2), Setting(10.0, 0.0, {}))
    assert likeliest.tolist() == [1]


def test_argmax_of_labels_that_keep_few_logits_is_the_first_of_them(tmp_path):
    store = new_store(tmp_path / "s.zarr", num_images=16, image_shape=(32, 32, 3))
    codec = parse_codec("topk:3")
    store.add_label_set("kept", teacher=TEACHER, source="t", view_set="views", codec=codec, num_classes=10)
    fill(store, "kept")
    batch = batch_of(store, labels={"kept": 1.0}, view_set="views")
    _, likeliest = LOSSES["argmax"].compute(batch, torch.zeros(16, 10), Setting(1.0, 0.0, {}))
    assert torch.equal(likeliest, batch.logits().argmax(1))
    for loss in ("standardised", "gift"):
        with pytest.raises(
            UsageError, match=rf"--loss {loss} needs whole rows of logits, and 'kept' .*\(--codec topk:3\)"
        ):
            resolve_training(store, {**FAST, "loss": loss, "labels": "kept"})
    for loss in ("argmax", "dist", "dkd", "kl"):
        assert resolve_training(store, {**FAST, "loss": loss, "labels": "kept"})[1].loss == loss


# A weight that changes over the run


def objective_of(store, **options):
    from dmkd.classifiers.students import create_student, preprocessing_of
    from dmkd.training.sources import open_loader

    _, recipe = resolve_training(store, {**FAST, "labels": "teacher", **options})
    loader = open_loader(recipe, store, "cpu")
    torch.manual_seed(0)
    model = create_student(recipe.student, 10, 32).eval()
    return Objective(recipe, loader.decoder, model, preprocessing_of(loader.view_set.attributes)), next(loader.epoch(0))


@pytest.mark.parametrize("whose", ["asked", "argmax"])
def test_a_weight_leads_from_soft_labels_to_hard_ones(store, whose):
    def loss(progress, **options):
        objective, batch = objective_of(store, **options)
        with torch.no_grad():
            return objective(batch, progress)[0].item()

    leading = {"hard_weight_end": 1.0, "hard_labels": whose}
    soft, hard = loss(0.0), loss(0.0, loss={"asked": "hard", "argmax": "argmax"}[whose])
    assert loss(0.0, **leading) == pytest.approx(soft, rel=1e-5)
    assert loss(1.0, **leading) == pytest.approx(hard, rel=1e-5)
    # Half a cosine: a third of the way is a quarter of the weight.
    assert loss(1 / 3, **leading) == pytest.approx(0.75 * soft + 0.25 * hard, rel=1e-5)
    back = {**leading, "hard_weight": 0.5, "hard_weight_end": 0.0}
    assert loss(0.0, **back) == pytest.approx((soft + hard) / 2, rel=1e-5)
    assert loss(1.0, **back) == pytest.approx(soft, rel=1e-5)


def test_recipes_that_do_not_use_them_do_not_name_them(store):
    _, plain = resolve_training(store, {**FAST, "hard_weight": 0.5})
    assert not {"hard_weight_end", "hard_labels"} & plain.to_json().keys()
    _, asked = resolve_training(store, {**FAST, "hard_weight": 0.5, "hard_labels": "asked"})
    assert asked.to_json() == plain.to_json()
    _, used = resolve_training(store, {**FAST, "hard_weight": 0.5, "hard_weight_end": 0.0, "hard_labels": "argmax"})
    assert used.to_json() == {**plain.to_json(), "hard_weight_end": 0.0, "hard_labels": "argmax"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hard_weight_end": 1.5}, "--hard-weight-end must be from 0 to 1, not 1.5"),
        ({"hard_labels": "mine", "hard_weight": 0.5}, "--hard-labels must be one of asked, argmax, not 'mine'"),
        ({"hard_labels": "argmax"}, "--hard-labels says whose class .* use it with --hard-weight or --hard-weight-end"),
        ({"loss": "gift", "gift_weight": -1.0}, "--gift-weight must be 0 or more"),
    ],
)
def test_what_can_not_be_is_refused(store, options, message):
    with pytest.raises(UsageError, match=message):
        resolve_training(store, {**FAST, **options})


def test_hard_labels_are_smoothed_wherever_they_come_from(store):
    for options in ({"loss": "argmax"}, {"hard_weight_end": 1.0}):
        assert resolve_training(store, {**FAST, **options, "label_smoothing": 0.1})[1].label_smoothing == 0.1


# As a user meets them


def test_a_loss_begins_at_its_authors_temperature(store):
    def temperature(loss, preset=None, **options):
        return resolve_training(store, {**FAST, "loss": loss, **options}, preset)[1].temperature

    assert (temperature("kl"), temperature("kl", "cutmix-t20")) == (10, 20)
    assert (temperature("dkd"), temperature("standardised"), temperature("dist", "cutmix-t20")) == (4, 2, 1)
    assert temperature("dkd", temperature=1.0) == 1
    text = " ".join(CliRunner().invoke(main, ["train-student", "--help"]).output.split())
    assert "Default: 10; cutmix-t20: 20; dm-kd-cifar: 4; dkd: 4; standardised: 2; dist: 1." in text
    assert "8 on CIFAR-100 at T=4, 0.5 on ImageNet at T=1" in text


def test_what_is_trained_is_printed(store, tmp_path, capsys):
    def printed(**options):
        name, recipe = resolve_training(store, {**FAST, **options})
        print_recipe(name, recipe, store, tmp_path)
        return " ".join(capsys.readouterr().out.split())

    assert "loss cross-entropy with the teacher's likeliest class optimiser" in printed(loss="argmax")
    assert "KL at T=10, 50% to 0% cross-entropy with the class" in printed(hard_weight=0.5, hard_weight_end=0.0)
    text = printed(hard_weight_end=1.0, hard_labels="argmax")
    assert "KL at T=10, 0% to 100% cross-entropy with the teacher's likeliest class" in text
    assert "GIFT's cosine (weight 0.1, smoothing 0.1)" in printed(loss="gift")


def test_regimes_are_compared(store):
    axes = Axes(
        (store.path,), students=("test_resnet",), vary={"loss": ("kl", "argmax", "standardised", "dist", "gift")}
    )
    runs = plan_runs(axes, {"epochs": 1, "lr": 0.01})
    assert [run.recipe.temperature for run in runs] == [10, 10, 2, 1, 10]
    varied = {"hard_labels": ("asked", "argmax"), "hard_weight_end": (0.0, 1.0)}
    axes = Axes((store.path,), students=("test_resnet",), vary=varied)
    runs = plan_runs(axes, {"epochs": 1, "lr": 0.01, "hard_weight": 0.5})
    assert len({run.name for run in runs}) == 4
    assert [run.condition["hard_labels"] for run in runs] == ["asked", "asked", "argmax", "argmax"]


@pytest.mark.parametrize(
    "options",
    [{"loss": loss} for loss in ("argmax", "standardised", "dist", "gift")]
    + [{"hard_weight_end": 1.0, "hard_labels": "argmax"}],
)
def test_each_trains(store, tmp_path, options):
    from dmkd.train import train

    _, recipe = resolve_training(store, {**FAST, **options})
    assert math.isfinite(train(recipe, store, tmp_path, device="cpu", execution=Execution())["loss"])


def fill(store, name):
    rng = np.random.default_rng(0)
    for block in range(store.num_blocks):
        ids = np.array(store.block_ids(block))
        views = store.views["views"]
        boxes = np.zeros((len(ids), views.num_views, 5), np.float32)
        boxes[..., 2:4] = 1
        store.write_block(
            block,
            images=rng.integers(0, 256, (len(ids), *store.image_shape)).astype(np.uint8),
            class_ids=rng.integers(0, 10, len(ids)).astype(np.int32),
            views={"views": boxes},
            labels={
                name: (
                    rng.normal(0, 3, (len(ids), views.num_views, 10)).astype(np.float32),
                    np.zeros((len(ids), 3), np.float32),
                )
            },
        )
