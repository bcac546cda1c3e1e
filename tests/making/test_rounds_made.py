"""Rounds of images, from a student in a folder to blocks: what is made, resumed, grown and made again."""

import dataclasses
import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tree_bytes
from safetensors.torch import load_file, save_file
from tiny_rounds import (
    ALL_AT_ONCE,
    HERE,
    Told,
    begin,
    copy,
    follow,
    make_student,
    recipe_and_round,
    resume,
)

from dmkd.classifiers.load import load_classifier
from dmkd.generate import LabelOptions, RunOptions, label
from dmkd.generators.load import load_generator
from dmkd.loading.api import loader
from dmkd.making.blocks import BlockWorker
from dmkd.making.critics import critic_of
from dmkd.recipes.rounds import WINDOW, Round
from dmkd.runtime.progress import Silent
from dmkd.steering.critic import Climb
from dmkd.stores import UsageError, open_store
from dmkd.train import train
from dmkd.training.training_recipe import resolve_training
from dmkd.verify import verify


@pytest.fixture(scope="module")
def first(tmp_path_factory, tiny_generator, tiny_teacher):
    return begin(tmp_path_factory.mktemp("first") / "s.zarr", tiny_generator, tiny_teacher)


@pytest.fixture(scope="module")
def student(tmp_path_factory, first):
    return make_student(tmp_path_factory.mktemp("student") / "student", first.class_names)


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory, first, student):
    """Made without a break: 40 images, 60 with a round of all there is, 75 with one of candidates alone."""
    store = copy(first, tmp_path_factory.mktemp("two") / "s.zarr")
    store = follow(store, student, **ALL_AT_ONCE)
    return follow(store, student, 75, candidates=3, score="entropy")


def test_a_round_has_its_columns_and_leaves_what_was_there_as_it_was(first, two_rounds):
    assert [(one.start, one.stop) for one in two_rounds.rounds] == [(40, 60), (60, 75)]
    assert two_rounds.num_images == 75 and not two_rounds.missing_blocks()
    assert two_rounds.identity == first.identity and two_rounds.lineage != first.identity
    np.testing.assert_array_equal(two_rounds.columns["round"][:], np.repeat([0, 1, 2], [40, 20, 15]))
    scores = two_rounds.columns["score"][:]
    assert np.isnan(scores[:40]).all() and (scores[40:] > 0).all()
    for of in ("images", "class_ids"):
        np.testing.assert_array_equal(getattr(two_rounds, of)[:40], getattr(first, of)[:])
    before, after = (store.labels["tiny-resnet"] for store in (first, two_rounds))
    np.testing.assert_array_equal(after.logits(np.arange(40)), before.logits(np.arange(40)))
    assert not after.missing_blocks()
    assert len(np.unique(two_rounds.images[:].reshape(75, -1), axis=0)) == 75


def test_scores_are_those_of_the_stored_images(two_rounds):
    for number in (1, 2):
        one = two_rounds.rounds[number - 1]
        ids = np.arange(one.start, one.stop)
        critic = critic_of(two_rounds, number, "cpu")
        looked, _ = critic.look(
            torch.from_numpy(two_rounds.images[ids]), torch.from_numpy(two_rounds.class_ids[ids].astype(np.int64))
        )
        np.testing.assert_allclose(two_rounds.columns["score"][ids], looked, rtol=1e-4)
    assert critic.score.name == "entropy:1"


def test_blocks_that_are_gone_are_made_again_as_they_were(two_rounds, tmp_path):
    store = copy(two_rounds, tmp_path / "s.zarr")
    before = tree_bytes(tmp_path / "s.zarr")
    for block in (2, 4):  # the first is of two rounds, and of images before them
        (tmp_path / f"s.zarr/images/c.{block}.0.0.0").unlink()
    (tmp_path / "s.zarr/columns/score/c.4.0").unlink()
    store = resume(store)
    assert not store.missing_blocks() and tree_bytes(tmp_path / "s.zarr") == before


@contextmanager
def stopped_at(monkeypatch, block):
    """The process ends when it is to make this block."""
    make = BlockWorker.make

    def stop(worker, number, inputs):
        if number == block:
            raise KeyboardInterrupt
        return make(worker, number, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(BlockWorker, "make", stop)
        yield


@pytest.mark.parametrize("blocks", [pytest.param((2, 4), marks=pytest.mark.slow), (3, 3)])
def test_stopped_between_blocks_it_goes_on_to_the_same_bytes(first, student, two_rounds, tmp_path, monkeypatch, blocks):
    store = copy(first, tmp_path / "s.zarr")
    with stopped_at(monkeypatch, blocks[0]), pytest.raises(KeyboardInterrupt):
        follow(store, student, **ALL_AT_ONCE)
    store = open_store(store.path)
    assert store.rounds and blocks[0] in store.missing_blocks()
    resume(store)  # by what the store says of its round
    with stopped_at(monkeypatch, blocks[1]), pytest.raises(KeyboardInterrupt):
        follow(store, student, 75, candidates=3, score="entropy")
    follow(store, student, 75, candidates=3, score="entropy")  # or by the same command
    assert tree_bytes(tmp_path / "s.zarr") == tree_bytes(Path(two_rounds.path))
    assert [one.identity for one in open_store(store.path).rounds] == [one.identity for one in two_rounds.rounds]


def test_stopped_before_the_store_has_grown_it_goes_on_to_the_same_bytes(
    first, student, two_rounds, tmp_path, monkeypatch
):
    store = copy(first, tmp_path / "s.zarr")
    with monkeypatch.context() as patch:
        patch.setattr("dmkd.stores.store.Store.grow", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            follow(store, student, **ALL_AT_ONCE)
    store = open_store(store.path)
    assert store.num_images == 40 and len(store.rounds) == 1
    with pytest.raises(UsageError, match="is not finished, and a round follows what is there: run `dmkd generate"):
        follow(store, student, 75, candidates=3)
    assert resume(store).num_images == 60
    follow(store, student, 75, candidates=3, score="entropy")
    assert tree_bytes(tmp_path / "s.zarr") == tree_bytes(Path(two_rounds.path))


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_an_actor_makes_the_bytes_that_one_process_makes(first, student, two_rounds, tmp_path):
    store = copy(first, tmp_path / "s.zarr")
    on_ray = RunOptions(workers=1, device="cpu")
    follow(store, student, **ALL_AT_ONCE, run=on_ray)
    follow(store, student, 75, candidates=3, score="entropy", run=on_ray)
    assert tree_bytes(tmp_path / "s.zarr") == tree_bytes(Path(two_rounds.path))


def sampled(store, generator, ids, seeds_of, classes, critic=None, strength=0.0, **options):
    """Sub-batches of 8 as the round's blocks are cut, by hand -> images, scores."""
    recipe, _ = recipe_and_round(store)
    loaded = load_generator(str(generator), dtype="float32", device="cpu")
    images, scores = [], []
    for start in range(0, len(ids), 8):
        part = slice(start, start + 8)
        given = {**recipe.sampling(ids[part]), **options}
        if strength:
            given["steer"] = Climb(critic, torch.from_numpy(classes[part].astype(np.int64)), strength, WINDOW)
        images.append(loaded.sample(classes[part], recipe.image_seeds(seeds_of[part]), **given))
        if critic is not None:
            scores.append(critic.look(images[-1], torch.from_numpy(classes[part].astype(np.int64)))[0])
    return torch.cat(images).numpy(), torch.cat(scores).numpy() if scores else None


def filled_up(store, ids):
    """Class ids of these, also beyond the round."""
    recipe, one = recipe_and_round(store)
    return recipe.class_ids(ids, one.class_order)


@pytest.mark.parametrize(("candidate_steps", "strength"), [(None, 0.0), (2, 0.0), (2, 0.3), (None, 0.3)])
def test_the_best_of_the_candidates_is_made(first, student, tiny_generator, tmp_path, candidate_steps, strength):
    """Candidates that are not made in the end are not pushed."""
    asked = {"candidates": 3, "candidate_steps": candidate_steps, "strength": strength, "score": "kl:2"}
    store = follow(copy(first, tmp_path / "s.zarr"), student, 64, **asked)
    _, one = recipe_and_round(store)
    critic, ids = critic_of(store, 1, "cpu"), np.arange(40, 64)
    classes = filled_up(store, ids)
    cheap = {"strength": strength} if candidate_steps is None else {"steps": candidate_steps}
    tried = [sampled(store, tiny_generator, ids, one.candidate(ids, c), classes, critic, **cheap) for c in range(3)]
    scores = np.stack([score for _, score in tried])
    best = scores.argmax(0)
    assert len(set(best.tolist())) == 3, "each of them is the best of some image"
    if candidate_steps is None:
        expected, kept = np.stack([images for images, _ in tried])[best, np.arange(24)], scores.max(0)
    else:
        expected, kept = sampled(store, tiny_generator, ids, one.candidate(ids, best), classes, critic, strength)
    np.testing.assert_array_equal(store.images[ids], expected)
    np.testing.assert_array_equal(store.class_ids[ids], classes)
    np.testing.assert_array_equal(store.columns["score"][ids], kept)


def test_a_round_without_anything_is_what_the_recipe_makes(first, student, tiny_generator, tiny_teacher, tmp_path):
    """Nor is there any difference for strength 0, one candidate, or no student at all."""
    plain = begin(tmp_path / "plain.zarr", tiny_generator, tiny_teacher, images=56)
    for number, options in enumerate([{"follow": student}, {"follow": student, "strength": 0.0, "candidates": 1}, {}]):
        store = copy(first, tmp_path / f"{number}.zarr")
        store = follow(store, options.pop("follow", None), 56, **options)
        np.testing.assert_array_equal(store.class_ids[:], plain.class_ids[:])
        # A block in which a round begins is cut into other sub-batches.
        assert np.abs(store.images[:].astype(int) - plain.images[:]).max() <= 1
        assert np.isnan(store.columns["score"][:]).all() == ("follow" not in options and number == 2)


def test_pushed_images_have_higher_scores_than_those_that_are_not(first, student, tmp_path):
    left = follow(copy(first, tmp_path / "left.zarr"), student, 72)
    pushed = follow(copy(first, tmp_path / "pushed.zarr"), student, 72, strength=0.3, window="0:999")
    np.testing.assert_array_equal(left.class_ids[:], pushed.class_ids[:])
    gained = pushed.columns["score"][40:] - left.columns["score"][40:]
    assert gained.mean() > 0.1 * left.columns["score"][40:].mean() and (gained > 0).mean() > 0.8


def test_classes_get_the_images_that_the_round_has_counted(first, student, tmp_path):
    store = follow(copy(first, tmp_path / "s.zarr"), student, 140, class_shares=1.0, score="learnability")
    _, one = recipe_and_round(store)
    dealt = np.bincount(store.class_ids[40:], minlength=10)
    assert dealt.tolist() == list(one.class_counts) and dealt.sum() == 100 and len(set(dealt.tolist())) > 1
    critic = critic_of(store, 1, "cpu")
    seen = critic.look(torch.from_numpy(first.images[:]), torch.from_numpy(first.class_ids[:].astype(np.int64)))[0]
    by_class = [float(seen[first.class_ids[:] == number].sum() + 10 * seen.mean()) / 14 for number in range(10)]
    order = np.argsort(by_class, kind="stable")
    assert (np.diff(dealt[order]) >= 0).all() and dealt[order[0]] == 0, "more where there is more to learn"


def test_scales_of_classes_reach_the_generator_and_the_next_round_goes_on_from_them(
    first, student, tiny_generator, tmp_path
):
    store = follow(copy(first, tmp_path / "s.zarr"), student, 64, class_guidance="1:4", agreement=0.5)
    _, one = recipe_and_round(store)
    ids = np.arange(40, 64)
    scales = np.array(one.class_guidance, np.float32)
    assert len(scales) == 10 and len(set(scales.tolist())) > 1 and scales.min() >= 1 and scales.max() <= 4
    expected = np.concatenate(
        [sampled(store, tiny_generator, part, part, filled_up(store, part), guidance=scales[filled_up(store, part)])[0]
         for part in np.split(ids, 3)]
    )  # fmt: skip
    np.testing.assert_array_equal(store.images[ids], expected)
    store = follow(store, student, 80, class_guidance="1:4", agreement=0.99)
    later = np.array(recipe_and_round(store, 2)[1].class_guidance)
    assert (later >= scales - 1e-6).all() and (later > scales)[scales < 4].all()


def test_classes_at_the_largest_scale_are_told(first, student, tmp_path):
    display = Told()
    follow(copy(first, tmp_path / "s.zarr"), student, class_guidance="1:1.6", agreement=0.99, display=display)
    assert any(
        "of 10 classes have the largest scale, 1.6: the teacher may still see" in text for text in display.notices
    )


@pytest.mark.parametrize(
    ("agreement", "said"), [(0.9, "Images are not pushed: even so the teacher sees"), (0.001, None)]
)
def test_images_are_pushed_as_hard_as_the_teacher_still_agrees(first, student, tmp_path, agreement, said):
    display = Told()
    store = follow(copy(first, tmp_path / "s.zarr"), student, agreement=agreement, strength=0.4, display=display)
    _, one = recipe_and_round(store)
    assert one.strength == (0.0 if said else 0.4) and one.asked["strength"] == 0.4
    assert any(text.startswith(said or "Trying how hard") for text in display.notices)
    assert sum("Images are" in text for text in display.notices) == bool(said)
    follow(store, student, agreement=agreement, strength=0.4)  # what was asked for is the same round


def test_the_largest_strength_that_keeps_to_the_target_is_taken(first, student, tmp_path, monkeypatch):
    """The share that agrees is that of the images as they are made, by half the strength after the other."""
    tried = []

    def looked(generator, recipe, ids, one, critic):
        tried.append(one.strength)
        return torch.zeros(8, 32, 32, 3, dtype=torch.uint8), np.zeros(8, np.int32), None

    monkeypatch.setattr("dmkd.making.strength.make_images", looked)
    shares = iter([3, 4, 8])

    class Look:
        def __init__(self, *_):
            pass

        def look(self, images, class_ids):
            return None, torch.arange(8) < next(shares)

    monkeypatch.setattr("dmkd.making.strength.Critic", Look)
    display = Told()
    store = follow(copy(first, tmp_path / "s.zarr"), student, agreement=0.5, strength=0.4, display=display)
    assert tried == [0.4, 0.2] and recipe_and_round(store)[1].strength == 0.2
    assert any(text.startswith("Images are pushed by 0.2 instead of 0.4: the teacher would see the class of fewer than 50%")
               for text in display.notices)  # fmt: skip


def test_it_is_sound_and_made_again_to_the_bit(two_rounds):
    report = verify(two_rounds.path, regenerate=1.0, rerun_teacher=1.0, device="cpu", display=Silent())
    assert report.sound and report.complete and not report.findings
    assert report.regenerate["images"] == 75 and report.regenerate["share_differing"] == 0


def test_another_student_in_the_store_is_found_out(two_rounds, tmp_path):
    store = copy(two_rounds, tmp_path / "s.zarr")
    node = tmp_path / "s.zarr/rounds"
    shutil.rmtree(node / "1/student")
    shutil.copytree(make_other_students_node(two_rounds, tmp_path), node / "1/student")
    report = verify(store.path, regenerate=1.0, device="cpu", display=Silent())
    assert not report.sound
    assert any("The student of round 1" in finding.sentence for finding in report.findings)


def make_other_students_node(store, tmp_path):
    """The array of another student of the same size, as a store keeps it."""
    other = copy(store, tmp_path / "other.zarr")
    weights = np.frombuffer(other.rounds[0].student_weights(), np.uint8).copy()
    weights[-1] ^= 1
    node = f"{other.rounds[0].node}/student"
    shutil.rmtree(tmp_path / "other.zarr" / node)
    other.chunks.tree.write_constant(node, weights)
    return tmp_path / "other.zarr" / node


def test_scores_that_are_not_those_of_the_student_are_found_out(first, student, tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = "def score(teacher, student, class_ids):\n    return {} * teacher[:, 0]\n"
    (folder / "changing_score.py").write_text(code.format(1))
    store = follow(copy(first, tmp_path / "s.zarr"), student, score="changing_score:score")
    assert store.rounds[0].description["score"] == "changing_score:score"
    assert not verify(store.path, regenerate=1.0, device="cpu", display=Silent()).findings
    monkeypatch.setattr(sys.modules["changing_score"], "score", lambda teacher, student, class_ids: 3 * teacher[:, 0])
    findings = verify(store.path, regenerate=1.0, device="cpu", display=Silent()).findings
    assert [finding.node for finding in findings] == ["columns/score"]
    assert "The scores of 2 of 4 blocks are not those that their students give here" in findings[0].sentence
    sys.modules.pop("changing_score")


def test_a_store_with_rounds_is_labelled_trained_on_and_grown_like_any_other(two_rounds, other_teacher, tmp_path):
    store = copy(two_rounds, tmp_path / "s.zarr")
    store, names = label(store.path, LabelOptions((str(other_teacher),)), HERE, Silent())
    assert names == ["tiny-efficientnet"] and not store.labels["tiny-efficientnet"].missing_blocks()
    batches = list(loader(store.path, labels="tiny-resnet", batch_size=25, seed=0))
    assert sum(len(batch.class_ids) for batch in batches) == 75
    _, recipe = resolve_training(
        store,
        {"student": "test_resnet", "labels": "tiny-resnet", "epochs": 1, "batch_size": 25, "select": "round <= 1"},
    )
    summary = train(recipe, store, tmp_path / "run", device="cpu")
    assert summary["store"]["images"] == 60
    store = follow(store, tmp_path / "run", 90, candidates=2)
    assert len(store.rounds) == 3 and not store.missing_blocks()
    assert not store.labels["tiny-efficientnet"].missing_blocks()
    assert not verify(store.path, regenerate=1.0, device="cpu", display=Silent()).findings


def test_a_teacher_whose_weights_have_changed_is_refused(first, student, tiny_teacher, tiny_generator, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_teacher, teacher)
    store = begin(tmp_path / "s.zarr", tiny_generator, teacher, images=16)
    store = follow(store, student, 32, candidates=2)
    weights = load_file(teacher / "model.safetensors")
    save_file({name: value * 1.01 if value.is_floating_point() else value for name, value in weights.items()},
              teacher / "model.safetensors", {"format": "pt"})  # fmt: skip
    report = verify(store.path, regenerate=1.0, device="cpu", display=Silent())
    assert not report.sound
    assert any(
        "The weights of teacher" in finding.sentence and "have changed" in finding.sentence
        for finding in report.findings
    )


def test_what_is_asked_for_is_in_the_description_and_the_student_by_its_weights_alone(two_rounds, student):
    description = two_rounds.rounds[0].description
    assert description["asked"]["candidates"] == 2 and description["asked"]["class_guidance"] == "1:3"
    assert str(student) not in json.dumps(description), "folders differ from machine to machine"
    assert two_rounds.rounds[0].student_weights() == (student / "model.safetensors").read_bytes()
    assert load_classifier(str(student)).sha256 == critic_of(two_rounds, 1, "cpu").student.sha256
    one = Round.from_json(description)
    assert dataclasses.asdict(one)["teacher_sha256"] == two_rounds.labels["tiny-resnet"].teacher["sha256"]


@pytest.mark.slow
def test_an_hdf5_store_has_rounds_too(two_rounds, tiny_generator, tiny_teacher, student, tmp_path):
    store = begin(tmp_path / "s.h5", tiny_generator, tiny_teacher)
    store = follow(store, student, **ALL_AT_ONCE)
    store = follow(store, student, 75, candidates=3, score="entropy")
    np.testing.assert_array_equal(store.images[:], two_rounds.images[:])
    np.testing.assert_array_equal(store.columns["score"][:], two_rounds.columns["score"][:])
    assert store.lineage == two_rounds.lineage
    assert not verify(store.path, regenerate=1.0, device="cpu", display=Silent()).findings
