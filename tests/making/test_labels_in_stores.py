"""Labels in every codec, from the teacher to the student, and views that mix: both see the same pixels."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tree_bytes

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.load import load_classifier
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.loading import Loader
from dmkd.making.label_sets import LabelRequest, add_label_sets, view_set_for
from dmkd.runtime.progress import Silent
from dmkd.stores import StoreError, UsageError, open_store, parse_codec
from dmkd.train import train
from dmkd.training.training_recipe import resolve_training
from dmkd.views import parse_policy
from dmkd.views.description import ViewDescription
from dmkd.views.render import render_block

HERE = RunOptions(workers=0, device="cpu")
CODECS = ["float16", "uint8", "features", "klt:0.01", "topk:4"]


class Told(Silent):
    """A display that keeps its notices."""

    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def make(path, generator, teacher, views, codec="float16", images=48):
    options = ImageOptions(generator=str(generator), images=images, sampler="ddim", steps=2, block_size=16)
    return generate(str(path), options, LabelOptions((str(teacher),), views, codec=codec), HERE, Silent())[0]


@pytest.fixture(scope="module")
def exact(tmp_path_factory, tiny_generator, tiny_teacher):
    return make(tmp_path_factory.mktemp("exact") / "s.zarr", tiny_generator, tiny_teacher, "rrc:3")


def softmax(logits, temperature):
    return torch.softmax(torch.from_numpy(logits) / temperature, -1).numpy()


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_gives_the_teachers_softmax_back(codec, exact, tiny_generator, tiny_teacher, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, "rrc:3", codec)
    labelled = store.labels["tiny-resnet"]
    assert labelled.missing_blocks() == [] and labelled.codec.to_json()["name"] == codec.split(":")[0]
    for temperature in (1, 4, 20):
        wanted = softmax(exact.labels["tiny-resnet"].logits(slice(None)), temperature)
        found = softmax(labelled.logits(slice(None), temperature=temperature), temperature)
        assert 0.5 * np.abs(wanted - found).sum(-1).mean() < (0.05 if codec.startswith("topk") else 0.01)
    np.testing.assert_allclose(
        labelled.quality[:][:, 1:], exact.labels["tiny-resnet"].quality[:][:, 1:], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("codec", CODECS)
def test_labels_in_every_codec_resume_and_grow(codec, tiny_generator, tiny_teacher, tmp_path):
    whole = make(tmp_path / "whole.zarr", tiny_generator, tiny_teacher, "rrc:3", codec, images=56)
    store = make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, "rrc:3", codec)
    if not codec.startswith("klt"):  # the basis is that of the images that were there
        generate(store.path, ImageOptions(images=56), LabelOptions(), HERE, Silent())
        assert tree_bytes(tmp_path / "s.zarr") == tree_bytes(Path(whole.path))
    before = tree_bytes(tmp_path / "s.zarr")
    marker = open_store(store.path).labels["tiny-resnet"].marker
    next((tmp_path / "s.zarr" / marker).glob("c.1.*")).unlink()
    label(store.path, LabelOptions(), HERE, Silent())
    assert tree_bytes(tmp_path / "s.zarr") == before


@pytest.mark.parametrize("codec", CODECS)
def test_a_student_learns_from_every_codec(codec, tiny_generator, tiny_teacher, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, "rrc:3+cutmix", codec)
    _, recipe = resolve_training(store, {"student": "test_resnet", "epochs": 1, "batch_size": 16, "lr": 0.01})
    summary = train(recipe, store, tmp_path / "out", device="cpu")
    assert np.isfinite(summary["loss"])


def test_a_codec_that_is_fitted_is_fitted_once_and_before_the_first_label(tiny_generator, tiny_teacher, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator, "none", None)
    with pytest.raises(UsageError, match="step"):
        label(store.path, LabelOptions((str(tiny_teacher),), "rrc:3", codec="klt:-1"), HERE, Silent())
    told = Told()
    label(store.path, LabelOptions((str(tiny_teacher),), "rrc:3", codec="klt:0.05"), HERE, told)
    assert any("a logit will be off by" in notice for notice in told.notices), "the error is known in advance"
    basis = (tmp_path / "s.zarr/labels/tiny-resnet/constants/basis").rglob("c.*")
    before = {file: file.stat().st_mtime_ns for file in basis}
    generate(store.path, ImageOptions(images=64), LabelOptions(), HERE, Silent())
    assert before and {file: file.stat().st_mtime_ns for file in before} == before
    assert open_store(store.path).labels["tiny-resnet"].missing_blocks() == []


def test_a_label_set_that_was_begun_but_not_fitted_is_finished(tiny_generator, tiny_teacher, tmp_path, monkeypatch):
    import dmkd.generate

    store = make(tmp_path / "s.zarr", tiny_generator, "none", None)
    options = LabelOptions((str(tiny_teacher),), "rrc:3", codec="klt:0.05")
    with monkeypatch.context() as patch:
        patch.setattr(dmkd.generate, "fit_label_sets", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            label(store.path, options, HERE, Silent())
    begun = open_store(store.path).labels["tiny-resnet"]
    assert not begun.fitted and len(begun.missing_blocks()) == store.num_blocks
    with pytest.raises(StoreError, match="begun but has no labels yet"):
        begun.logits([0])
    label(store.path, LabelOptions(), HERE, Silent())
    assert open_store(store.path).labels["tiny-resnet"].missing_blocks() == []


@pytest.mark.parametrize("codec", ["float16", "features"])
def test_quality_is_that_of_the_canonical_view_in_every_view_set(codec, tiny_generator, tiny_teacher, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, "rrc:3")
    store, _ = label(store.path, LabelOptions((str(tiny_teacher),), "rrc:2+mixup", codec=codec), HERE, Silent())
    later = store.labels["tiny-resnet-rrc2-mixup"].quality[:]
    np.testing.assert_allclose(later[:, 1:], store.labels["tiny-resnet"].quality[:][:, 1:], rtol=1e-4, atol=1e-5)


def test_features_of_a_teacher_without_a_linear_head_are_refused(tiny_generator, tiny_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(Classifier, "head", lambda self: None)
    with pytest.raises(UsageError, match="does not end in a linear layer.*choose another codec"):
        make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, "rrc:3", "features")
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    "architecture", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_nfnet"]
)
def test_the_head_of_timms_models_gives_their_logits(architecture):
    import timm

    model = timm.create_model(architecture, num_classes=7).eval()
    size = model.pretrained_cfg["input_size"][1]
    classifier = Classifier(
        "x", "x", architecture, model, 7, None, size, False, "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3, ""
    )
    head = classifier.head()
    assert head is not None
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    logits = classifier.features(pixels).numpy() @ head[0].T + head[1]
    np.testing.assert_allclose(logits, classifier.logits(pixels).numpy(), atol=1e-4)


@pytest.mark.parametrize("views", ["rrc:24", "rrc:24+cutmix", "rrc:24+mixup,alpha=1"])
def test_the_student_sees_the_pixels_that_the_teacher_saw(views, tiny_generator, tiny_teacher, tmp_path):
    """150 images x 25 views x 3 kinds: 11,250 views, in batches and an order that the labeller never saw: 0 differences."""
    store = make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, views, images=150)
    view_set = next(iter(store.views.values()))
    teacher = load_classifier(str(tiny_teacher))
    seen_by_teacher = torch.cat(
        [
            render_block(
                torch.from_numpy(store.images.block(block)),
                view_set.rows.block(block),
                components=view_set.components,
                size=32,
                interpolation="bicubic",
            )
            for block in range(store.num_blocks)
        ]
    )
    loader = Loader(store, labels={"tiny-resnet": 1.0}, batch_size=37, seed=5)
    compared = different = 0
    for epoch in range(view_set.num_views):
        for batch in loader.epoch(epoch):
            pixels = batch.pixels(size=32, interpolation="bicubic")
            expected = seen_by_teacher[batch.ids, loader.views_of_epoch(batch.ids, epoch)]
            different += int((pixels != expected).sum())
            compared += len(batch.ids)
        if epoch == 0:
            torch.testing.assert_close(teacher.logits(pixels), batch.logits(), atol=2e-3, rtol=2e-3)
    assert (compared, different) == (150 * 25, 0)


def test_several_teachers_are_mixed_in_probability(exact, other_teacher, tiny_teacher):
    store, _ = label(exact.path, LabelOptions((str(other_teacher),)), HERE, Silent())
    loader = Loader(store, labels={"tiny-resnet": 3.0, "tiny-efficientnet": 1.0}, batch_size=48)
    batch = next(loader.epoch(0))
    which = loader.views_of_epoch(batch.ids, 0)
    for temperature in (1.0, 10.0):
        mixture = np.zeros((48, 10))
        for name, weight in (("tiny-resnet", 0.75), ("tiny-efficientnet", 0.25)):
            logits = store.labels[name].logits(batch.ids)[np.arange(48), which]
            mixture += weight * softmax(logits, temperature)
        found = softmax(batch.logits(temperature).numpy(), temperature)
        np.testing.assert_allclose(found, mixture, atol=1e-5)


def test_label_sets_of_different_views_are_not_mixed(tiny_generator, tiny_teacher, other_teacher, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, "rrc:2")
    store, _ = label(store.path, LabelOptions((str(other_teacher),), "rrc:3"), HERE, Silent())
    with pytest.raises(UsageError, match="labels of different views"):
        Loader(store, labels={"tiny-resnet": 1.0, "tiny-efficientnet-rrc3": 1.0}, batch_size=8)


def test_images_are_selected_by_what_the_teacher_saw(exact):
    entropy = exact.labels["tiny-resnet"].quality[:][:, 2]
    middle = float(np.median(entropy))
    loader = Loader(exact, labels={"tiny-resnet": 1.0}, batch_size=8, select=f"entropy<{middle}")
    ids = np.concatenate([batch.ids for batch in loader.epoch(0)])
    assert sorted(ids) == np.flatnonzero(entropy < np.float32(middle)).tolist() and loader.num_images == len(ids)
    with pytest.raises(UsageError, match="leaves none of the 48 images"):
        Loader(exact, labels={"tiny-resnet": 1.0}, batch_size=8, select="entropy<0")


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "dkd"},
        {"hard_weight": 0.5},
        {"loss": "hard"},
        {"temperature": 20.0, "temperature_end": 2.0},
        {"select": "entropy>0"},
    ],
)
def test_every_loss_trains_and_resumes(exact, options, tmp_path):
    given = {"student": "test_resnet", "epochs": 2, "batch_size": 16, "lr": 0.01, "labels": "tiny-resnet", **options}
    _, recipe = resolve_training(exact, given)
    first = train(recipe, exact, tmp_path, device="cpu")
    assert np.isfinite(first["loss"]) and train(recipe, exact, tmp_path, device="cpu")["loss"] == first["loss"]


def test_feature_distillation_needs_features_and_uses_them(exact, tiny_generator, tiny_teacher, tmp_path):
    given = {"student": "test_efficientnet", "epochs": 1, "batch_size": 16, "lr": 0.01, "feature_weight": 2.0}
    with pytest.raises(UsageError, match="--feature-weight needs labels that hold features"):
        resolve_training(exact, {**given, "labels": "tiny-resnet"})
    store = make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, "rrc:2", "features")
    losses = []
    for weight in (0.0, 2.0):
        _, recipe = resolve_training(store, {**given, "feature_weight": weight})
        losses.append(train(recipe, store, tmp_path / f"out{weight}", device="cpu")["loss"])
    assert losses[1] > losses[0]


def test_mixed_views_and_decoupled_kd_do_not_go_together(tiny_generator, tiny_teacher, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, "rrc:2+mixup")
    with pytest.raises(UsageError, match="--loss dkd needs one class an image"):
        resolve_training(store, {"loss": "dkd"})


def test_presets_are_taken_by_name(exact):
    name, recipe = resolve_training(exact, {"labels": "tiny-resnet"}, "cutmix-t20")
    assert (name, recipe.temperature, recipe.optimizer, recipe.schedule) == ("cutmix-t20", 20.0, "adamw", "cosine")
    with pytest.raises(UsageError, match="no preset 'best'; there are dm-kd, cutmix-t20"):
        resolve_training(exact, {}, "best")


@pytest.mark.parametrize("views", ["center", "rrc:3,scale=0.6:1", "rrc:2+cutmix", "rrc:2+mixup,alpha=1"])
def test_a_view_set_is_described_in_the_store_as_it_was_planned(views, tiny_generator, tiny_teacher, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator, "none", None)
    teacher = load_classifier(str(tiny_teacher))
    request = LabelRequest([teacher], parse_codec("float16"), views)
    planned = view_set_for(store, request, teacher)
    add_label_sets(store, request)
    (stored,) = store.views.values()
    assert ViewDescription.of(stored) == planned == view_set_for(store, request, teacher)
    assert (stored.num_views, stored.components) == (planned.num_views, planned.components)
    ids = np.array(store.block_ids(2))
    assert planned.draw(ids).shape == (len(ids), planned.num_views, len(planned.components))


def test_the_canonical_view_alone_is_view_0_of_the_first_view_set():
    first = ViewDescription(
        "rrc2-mixup",
        parse_policy("rrc:2+mixup"),
        3,
        True,
        32,
        "bicubic",
        0.875,
        "center",
        (0.1, 0.2, 0.5, 0.6),
        (40, 48),
        16,
    )
    ids, later = np.arange(16, 32), dataclasses.replace(first, first=False)
    assert (first.num_views, first.has_canonical) == (3, True) and (later.num_views, later.has_canonical) == (2, False)
    alone = later.canonical_alone().draw(ids)
    assert alone.shape == (16, 1, 5) and np.array_equal(alone, first.draw(ids)[:, :1, :5])
    assert np.array_equal(later.draw(ids), first.draw(ids)[:, 1:])
