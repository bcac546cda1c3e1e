"""What a teacher thinks of an image is measured at that teacher's own evaluation view: its crop, size and interpolation."""

import json
import re
import shutil

import numpy as np
import pytest

from dmkd import digits
from dmkd.cards.dataset_card import write_card
from dmkd.classifiers.default_weights import default_weights_notice
from dmkd.classifiers.evaluate import evaluate
from dmkd.classifiers.evaluation_data import evaluation_batches
from dmkd.classifiers.load import load_classifier
from dmkd.export import ExportOptions, export_store
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.making import label_sets
from dmkd.plan import CostOptions, plan
from dmkd.runtime.progress import Silent
from dmkd.stores.showing.facts import quality_view_in_words, store_facts
from dmkd.verify import verify

HERE = RunOptions(workers=0, device="cpu")
OWN = {"crop_pct": 0.5, "interpolation": "bilinear"}


def other_view(folder, **preprocessing):
    """digits-resnet, to be looked at otherwise."""
    shutil.copytree(digits.TEACHERS["digits-resnet"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= preprocessing
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def images(path, teacher="digits-resnet", views="rrc:1", number=64):
    options = ImageOptions(generator="digits", images=number, sampler="ddim", steps=4, block_size=32)
    return generate(str(path), options, LabelOptions((teacher,), views), HERE, Silent())[0]


def agreement(store, name):
    return float((store.labels[name].quality[:][:, 0] == store.class_ids[:]).mean())


@pytest.mark.parametrize("codec", ["float16", "features"])
def test_stored_agreement_is_what_evaluate_says_of_the_exported_images(codec, tmp_path):
    """Two teachers of different crop, size and interpolation on the same views."""
    store = images(tmp_path / "s.zarr", number=96)
    other = other_view(tmp_path / "cropped", input_size=[3, 48, 48], **OWN)
    store, _ = label(store.path, LabelOptions((other,), codec=codec), HERE, Silent())
    export_store(store, str(tmp_path / "png"), ExportOptions("imagefolder"), Silent())
    measured = {}
    for name, source in (("digits-resnet", "digits-resnet"), ("cropped", other)):
        teacher = load_classifier(source)
        measured[name] = evaluate(teacher, evaluation_batches(str(tmp_path / "png"), teacher)).top1
        assert agreement(store, name) == pytest.approx(measured[name], abs=1e-9), name
    assert measured["cropped"] < measured["digits-resnet"], "the two views are told apart"


def test_only_a_view_that_the_view_set_lacks_is_looked_at_once_more_and_recorded(tmp_path):
    store = images(tmp_path / "s.zarr")
    store, _ = label(store.path, LabelOptions(("digits-vit",)), HERE, Silent())
    store, _ = label(store.path, LabelOptions((other_view(tmp_path / "cropped", **OWN),)), HERE, Silent())
    assert all("quality_view" not in store.labels[name].attributes for name in ("digits-resnet", "digits-vit"))
    seen = store.labels["cropped"].attributes["quality_view"]
    assert seen == {"box": [0.25, 0.25, 0.5, 0.5], "size": 32, "interpolation": "bilinear"}
    sound = verify(store.path, rerun_teacher=1, device="cpu", display=Silent())
    assert not sound.findings and sound.rerun_teacher["cropped"]["max_p_class_difference"] == 0
    told = store_facts(store)["label_sets"]["cropped"]["quality_view"]
    assert quality_view_in_words(told) == "the teacher's own evaluation view (32 pixels, bilinear)"


def test_labels_that_were_begun_at_the_shared_view_go_on_so_and_say_it(tmp_path, monkeypatch):
    store = images(tmp_path / "s.zarr")
    teacher = LabelOptions((other_view(tmp_path / "cropped", **OWN),))
    with monkeypatch.context() as patch:
        patch.setattr(label_sets, "quality_view", lambda teacher, views: None)  # as older versions did
        store, _ = label(store.path, teacher, HERE, Silent())
    before, quality = store.labels["cropped"].identity, store.labels["cropped"].quality[:]
    store.chunks.delete(store.labels["cropped"].marker, 1)
    store, _ = label(store.path, teacher, HERE, Silent())
    assert store.labels["cropped"].identity == before and np.array_equal(store.labels["cropped"].quality[:], quality)
    sentence = "the views' canonical view, not the teacher's own (32 pixels, bicubic)"
    assert quality_view_in_words(store_facts(store)["label_sets"]["cropped"]["quality_view"]) == sentence
    assert f"`cropped`: at {sentence}" in write_card(store)
    fresh, _ = label(store.path, LabelOptions(teacher.teachers, name="anew"), HERE, Silent())
    assert agreement(fresh, "anew") != agreement(fresh, "cropped")


def test_quality_that_the_teacher_does_not_give_is_found_by_rerunning_it(tmp_path):
    store = images(tmp_path / "s.zarr")
    label_set = store.labels["digits-resnet"]
    ids = np.arange(32)
    store.write_block(0, labels={"digits-resnet": (label_set.logits(ids), np.float32([[0, 0.5, 1]] * len(ids)))})
    report = verify(store.path, rerun_teacher=1, device="cpu", display=Silent())
    assert [finding.where for finding in report.findings] == ["labels/digits-resnet/quality"]
    assert "The teacher's quality is another than what is stored" in report.findings[0].sentence


def test_a_plan_counts_the_forward_pass_for_the_quality(tmp_path):
    larger = other_view(tmp_path / "larger", input_size=[3, 64, 64])

    def flops(teacher, views):
        images, labels = ImageOptions(generator="digits"), LabelOptions((teacher,), views)
        found = plan(str(tmp_path / "s.zarr"), images, labels, CostOptions(), "cpu")
        return next(iter(found["flops_per_image"]["labels"].values()))

    at_32, at_64 = flops("digits-resnet", "center"), flops(larger, "center")
    assert at_64 > 3 * at_32 and flops(larger, "rrc:3") == 4 * at_64, "view 0 is its own"
    assert flops(larger, "rrc:3,size=32") == 4 * at_32 + at_64


class Told(Silent):
    """A display that keeps its notices."""

    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def test_a_later_teacher_of_another_size_than_the_views_is_told_once(tmp_path):
    store, told = images(tmp_path / "s.zarr"), Told()
    larger = LabelOptions((other_view(tmp_path / "larger", input_size=[3, 48, 48]),))
    label(store.path, larger, HERE, told)
    assert len(told.notices) == 1 and "was trained at 48x48 and labels views of 32x32" in told.notices[0]
    label(store.path, larger, HERE, told)
    label(store.path, LabelOptions(larger.teachers, "rrc:2,size=24"), HERE, told)
    label(store.path, LabelOptions(("digits-vit",)), HERE, told)
    assert len(told.notices) == 1, "neither what is resumed, nor a size that was asked for, nor the views' own"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "resnet34",
            "stands for resnet34.a1_in1k, .*binary cross-entropy.*--teacher resnet34.tv_in1k was trained with",
        ),
        ("resnet101", "resnet101.a1h_in1k, .*--teacher resnet101.tv_in1k"),
        ("resnetv2_50", "resnetv2_50.a1h_in1k, .*timm has none of it that were not"),
        ("resnet34.a1_in1k", None),
        ("resnet34.tv_in1k", None),
        ("vit_base_patch16_224", None),
        ("hf-hub:timm/resnet34.a1_in1k", None),
        ("digits-resnet", None),
        ("no_such_model", None),
    ],
)
def test_default_weights_that_were_trained_with_binary_cross_entropy_are_told(source, sentence):
    found = default_weights_notice(source)
    assert found is None if sentence is None else re.search(sentence, found), found
