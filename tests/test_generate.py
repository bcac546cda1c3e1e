"""Making stores: what is made, resumed, refused, grown and labelled later."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import make_teacher, tree_bytes

from dmkd.classifiers.load import load_classifier
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.runtime.progress import Silent
from dmkd.stores import DmkdError, MismatchError, UsageError, open_store

HERE = RunOptions(workers=0, device="cpu")


def make(path, generator, teacher="none", *, views=None, images=40, **options):
    teachers = None if teacher is None else tuple(map(str, teacher if isinstance(teacher, tuple) else (teacher,)))
    image_options = ImageOptions(
        **{"generator": str(generator), "images": images, "sampler": "ddim", "steps": 2, "block_size": 16, **options}
    )
    return generate(str(path), image_options, LabelOptions(teachers, views), HERE, Silent())[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_generator, tiny_teacher):
    return make(tmp_path_factory.mktemp("finished") / "s.zarr", tiny_generator, tiny_teacher, views="rrc:2")


def test_a_store_is_complete_after_one_call(finished):
    assert finished.missing_blocks() == [] and finished.labels["tiny-resnet"].missing_blocks() == []
    assert finished.images.shape == (40, 32, 32, 3)
    assert sorted(finished.class_ids[0:10].tolist()) == list(range(10))
    assert finished.labels["tiny-resnet"].logits([0, 39]).shape == (2, 3, 10)
    assert len(np.unique(finished.images[:].reshape(40, -1), axis=0)) == 40, "no two images are alike"


def test_stored_logits_are_the_teachers_of_the_stored_images_and_views(finished, tiny_teacher):
    from dmkd.views.render import render

    teacher = load_classifier(str(tiny_teacher))
    views = finished.views["rrc2"]
    for view in range(3):
        pixels = render(finished.images[:], views[:][:, view], size=32, interpolation="bicubic")
        logits = teacher.logits(pixels).numpy()
        np.testing.assert_allclose(finished.labels["tiny-resnet"].logits(slice(None), view), logits, atol=2e-3)


def test_quality_is_that_of_the_canonical_view(finished):
    logits = finished.labels["tiny-resnet"].logits(slice(None), 0).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    quality = finished.labels["tiny-resnet"].quality[:]
    # float16 logits may tie where the teacher's did not
    assert (quality[:, 0] == logits.argmax(1)).mean() > 0.9
    np.testing.assert_allclose(quality[:, 1], p[np.arange(40), finished.class_ids[:]], atol=1e-3)
    np.testing.assert_allclose(quality[:, 2], -(p * np.log(p)).sum(1), atol=1e-3)


def test_the_same_recipe_gives_the_same_bytes(finished, tiny_generator, tiny_teacher, tmp_path):
    again = make(tmp_path / "again.zarr", tiny_generator, tiny_teacher, views="rrc:2")
    assert again.identity == finished.identity
    assert tree_bytes(tmp_path / "again.zarr") == tree_bytes(Path(finished.path))


def test_what_a_killed_worker_left_half_written_is_gone_when_the_store_is_finished(tiny_generator, tmp_path):
    path = tmp_path / "s.zarr"
    leftover = path / "images" / "c.1.0.0.0f3a.partial"

    class WhileOneIsKilled(Silent):
        @contextmanager
        def task(self, *_: object, **__: object):
            leftover.write_bytes(b"half")  # after the sweep with which a run begins
            yield lambda count, note="", detail=None: None

    options = ImageOptions(generator=str(tiny_generator), images=16, sampler="ddim", steps=2, block_size=16)
    generate(str(path), options, LabelOptions(("none",)), HERE, WhileOneIsKilled())
    assert open_store(path).missing_blocks() == [] and not leftover.exists()


def test_another_seed_gives_other_images(finished, tiny_generator, tmp_path):
    other = make(tmp_path / "other.zarr", tiny_generator, seed=1)
    assert other.identity != finished.identity
    assert (other.images[:] != finished.images[:]).any(axis=(1, 2, 3)).all()


def test_blocks_that_are_gone_are_made_again_as_they_were(tiny_generator, tiny_teacher, tmp_path):
    path = tmp_path / "s.zarr"
    store = make(path, tiny_generator, tiny_teacher, views="rrc:2")
    before = tree_bytes(path)
    for chunk in ("images/c.1.0.0.0", "labels/tiny-resnet/logits/c.2.0.0", "views/rrc2/c.2.0.0"):
        (path / chunk).unlink()
    generate(str(path), ImageOptions(), LabelOptions(), HERE, Silent())  # nothing but the store need be named
    assert tree_bytes(path) == before
    assert open_store(store.path).missing_blocks() == []


def test_labels_made_later_are_those_made_at_once(finished, tiny_generator, tiny_teacher, other_teacher, tmp_path):
    later = make(tmp_path / "later.zarr", tiny_generator)
    assert later.labels == {}
    label(later.path, LabelOptions((str(tiny_teacher),), "rrc:2"), HERE, Silent())
    assert tree_bytes(tmp_path / "later.zarr") == tree_bytes(Path(finished.path))
    later, _ = label(later.path, LabelOptions((str(other_teacher),)), HERE, Silent())
    assert later.labels["tiny-efficientnet"].view_set == "rrc2", "a later teacher sees the views that exist"
    assert tree_bytes(tmp_path / "later.zarr").items() >= tree_bytes(Path(finished.path)).items()


def test_two_teachers_in_one_pass(tiny_generator, tiny_teacher, other_teacher, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator, (tiny_teacher, other_teacher), views="center")
    assert set(store.labels) == {"tiny-resnet", "tiny-efficientnet"}
    assert all(label_set.missing_blocks() == [] for label_set in store.labels.values())
    assert (store.labels["tiny-resnet"].logits([0]) != store.labels["tiny-efficientnet"].logits([0])).all()


def test_more_views_are_added_without_touching_the_old_labels(tiny_generator, tiny_teacher, tmp_path):
    path = tmp_path / "s.zarr"
    store = make(path, tiny_generator, tiny_teacher, views="rrc:2")
    before = tree_bytes(path)
    store, _ = label(store.path, LabelOptions((str(tiny_teacher),), "rrc:4"), HERE, Silent())
    assert store.labels["tiny-resnet-rrc4"].logits([0]).shape == (1, 4, 10), "only the first set has the canonical view"
    assert tree_bytes(path).items() >= before.items()
    # The first random views of both sets are the same ones.
    np.testing.assert_array_equal(store.views["rrc4"][:][:, :2], store.views["rrc2"][:][:, 1:])


def test_a_store_grows_and_keeps_what_it_has(tiny_generator, tiny_teacher, tmp_path):
    whole = make(tmp_path / "whole.zarr", tiny_generator, tiny_teacher, images=56, views="rrc:2")
    grown = make(tmp_path / "grown.zarr", tiny_generator, tiny_teacher, images=40, views="rrc:2")
    generate(grown.path, ImageOptions(images=56), LabelOptions(), HERE, Silent())
    assert tree_bytes(tmp_path / "grown.zarr") == tree_bytes(tmp_path / "whole.zarr")
    assert whole.identity == grown.identity


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"steps": 3}, "steps: the store has 2, you asked for 3"),
        ({"guidance": 3.0}, "guidance: the store has 2.0, you asked for 3.0"),
        ({"seed": 5}, "seed: the store has 0, you asked for 5"),
        ({"sampler": "dpm++"}, "sampler: the store has ddim, you asked for dpm"),
        ({"classes": "0-3"}, "classes: the store has nothing, you asked for"),
        ({"sub_batch": 8}, "sub_batch: the store has 16, you asked for 8"),
        ({"compile": True}, "compile: the store has false, you asked for true"),
        ({"block_size": 8}, "block_size: the store has 16, you asked for 8"),
    ],
)
def test_a_recipe_that_differs_is_refused_and_nothing_is_harmed(finished, options, field):
    path = finished.path
    before = tree_bytes(Path(path))
    with pytest.raises(MismatchError, match=field):
        generate(path, ImageOptions(**options), LabelOptions(), HERE, Silent())
    assert tree_bytes(Path(path)) == before


@pytest.mark.parametrize("labels", [{"views": "rrc:4"}, {"codec": "uint8"}, {"views": "rrc:2", "codec": "uint8"}])
def test_labels_that_the_store_does_not_have_need_a_teacher(finished, labels):
    before = tree_bytes(Path(finished.path))
    with pytest.raises(UsageError, match=r"has no labels of .*(rrc:4|uint8), and none are made without a teacher"):
        generate(finished.path, ImageOptions(), LabelOptions(**labels), HERE, Silent())
    generate(finished.path, ImageOptions(), LabelOptions(views="rrc:2", codec="float16"), HERE, Silent())
    assert tree_bytes(Path(finished.path)) == before


def test_weights_that_have_changed_are_refused(tiny_generator, tmp_path):
    import shutil

    shutil.copytree(tiny_generator, tmp_path / "generator")
    make_teacher(tmp_path / "teacher")
    store = make(tmp_path / "s.zarr", tmp_path / "generator", tmp_path / "teacher", views="center", images=16)
    make_teacher(tmp_path / "teacher", seed=9)
    (tmp_path / "s.zarr" / "labels/teacher/logits/c.0.0.0").unlink()
    with pytest.raises(MismatchError, match="weights of teacher .* have changed"):
        label(store.path, LabelOptions(), HERE, Silent())
    weights = tmp_path / "generator/vae/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(MismatchError, match="generator_sha256"):
        generate(store.path, ImageOptions(images=32), LabelOptions(), HERE, Silent())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"guidance": 0.5}, "Guidance 0.5 is out of range"),
        ({"sampler": "euler"}, "sampler"),
        ({"dtype": "int8"}, "--dtype must be one of"),
        ({"images": 0}, "--images must be at least 1"),
        ({"block_size": 0}, "--block-size must be at least 1"),
        ({"sub_batch": -1}, "--sub-batch must be at least 1"),
        ({"guided_channels": 9}, "channels"),
        ({"classes": "12"}, "there is no class 12"),
    ],
)
def test_options_out_of_range_leave_nothing_behind(tiny_generator, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        make(tmp_path / "s.zarr", tiny_generator, **options)
    assert not (tmp_path / "s.zarr").exists()


def test_a_teacher_that_does_not_fit_leaves_nothing_behind(tiny_generator, tmp_path):
    make_teacher(tmp_path / "seven", num_classes=7)
    with pytest.raises(UsageError, match="knows 7 classes and generator tiny makes 10"):
        make(tmp_path / "s.zarr", tiny_generator, tmp_path / "seven")
    with pytest.raises(UsageError, match="no model 'resnet35'"):
        make(tmp_path / "s.zarr", tiny_generator, "resnet35")
    assert not (tmp_path / "s.zarr").exists()


def test_interrupted_before_its_first_label_set_a_store_still_gets_the_default_teacher(tmp_path, monkeypatch):
    import dmkd.generate

    options = ImageOptions(generator="digits", images=16, steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(dmkd.generate, "add_label_sets", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            generate(str(tmp_path / "s.zarr"), options, LabelOptions(), HERE, Silent())
    store, label_sets = generate(str(tmp_path / "s.zarr"), options, LabelOptions(), HERE, Silent())
    assert label_sets == ["digits-resnet"] and store.labels["digits-resnet"].missing_blocks() == []


def test_a_refused_run_does_not_grow_the_store(tiny_generator, tiny_teacher, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, views="rrc:2")
    options = LabelOptions((str(tiny_teacher),), codec="uint8")
    with pytest.raises(MismatchError):
        generate(store.path, ImageOptions(images=80), options, HERE, Silent())
    assert open_store(store.path).num_images == 40


def test_whoever_makes_a_block_compiles_the_models_if_the_recipe_says_so(tiny_generator, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        "dmkd.generators.compiling.compile_for_fixed_shapes", lambda part: compiled.append(type(part).__name__)
    )
    store = make(tmp_path / "s.zarr", tiny_generator, images=32, compile=True)
    assert store.recipe["compile"] is True and compiled == ["DiTTransformer2DModel", "Decoder"]
    (tmp_path / "s.zarr/images/c.0.0.0.0").unlink()
    generate(store.path, ImageOptions(), LabelOptions(), HERE, Silent())
    assert len(compiled) == 4
    with pytest.raises(MismatchError, match="compile: the store has true, you asked for false"):
        generate(store.path, ImageOptions(compile=False), LabelOptions(), HERE, Silent())


def test_only_chosen_classes_are_made(tiny_generator, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator, classes="2,5-6", images=16)
    assert set(store.class_ids[:].tolist()) == {0, 1, 2} and store.num_classes == 3
    assert store.class_names == ["name 2", "name 5", "name 6, synonym 6"] and store.recipe["classes"] == [2, 5, 6]
    whole = make(tmp_path / "whole.zarr", tiny_generator, images=40, seed=0)
    assert whole.num_classes == 10 and "compact_classes" not in whole.recipe


def test_sub_batches_that_do_not_divide_the_block_make_the_same_images(tiny_generator, tmp_path):
    whole = make(tmp_path / "a.zarr", tiny_generator, sub_batch=16)
    cut = make(tmp_path / "b.zarr", tiny_generator, sub_batch=6)
    difference = np.abs(whole.images[:].astype(int) - cut.images[:])
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-2


def test_a_block_that_always_fails_is_set_aside_and_named(tiny_generator, tmp_path, monkeypatch):
    import dmkd.engine.scheduler
    import dmkd.making.blocks

    monkeypatch.setattr(dmkd.engine.scheduler, "BACK_OFF_SECONDS", 0.0)
    real, calls = dmkd.making.blocks.BlockWorker.make, []

    def make_block(self, block, inputs):
        calls.append(block)
        if block == 1 or (block == 2 and calls.count(2) == 1):
            raise RuntimeError("cosmic ray")
        return real(self, block, inputs)

    monkeypatch.setattr(dmkd.making.blocks.BlockWorker, "make", make_block)
    with pytest.raises(DmkdError, match=r"1 blocks .* failed 3 times .* block 1 because of RuntimeError: cosmic ray"):
        make(tmp_path / "s.zarr", tiny_generator)
    assert calls.count(1) == 3 and calls.count(2) == 2
    assert open_store(tmp_path / "s.zarr").missing_blocks() == [1]


def test_unfinished_stores_are_labelled_as_far_as_they_go(tiny_generator, tiny_teacher, tmp_path):
    store = make(tmp_path / "s.zarr", tiny_generator)
    (tmp_path / "s.zarr/images/c.1.0.0.0").unlink()
    store, _ = label(store.path, LabelOptions((str(tiny_teacher),), "center"), HERE, Silent())
    assert store.labels["tiny-resnet"].missing_blocks() == [1]
    generate(store.path, ImageOptions(), LabelOptions(), HERE, Silent())
    assert store.labels["tiny-resnet"].missing_blocks() == []


def test_a_store_that_begins_small_grows_into_the_one_begun_large(tiny_generator, tiny_teacher, tmp_path):
    """Neither block nor sub-batch size may depend on how many images were asked for first."""
    small, large = tmp_path / "small.zarr", tmp_path / "large.zarr"
    options = {"generator": str(tiny_generator), "sampler": "ddim", "steps": 2}
    labels = LabelOptions((str(tiny_teacher),), "rrc:2")
    for path, counts in ((small, (10, 400)), (large, (400,))):
        for count in counts:
            store, _ = generate(str(path), ImageOptions(images=count, **options), labels, HERE, Silent())
    assert (store.block_size, store.num_blocks, store.recipe["sub_batch"]) == (256, 2, 64)
    assert tree_bytes(small) == tree_bytes(large)
