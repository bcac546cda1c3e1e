"""The largest sub-batch that fits: the search, the trial itself on a CPU with less memory, and when it is looked for."""

import dataclasses
import time

import pytest
import torch
from conftest import CLASS_NAMES

from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.making.sub_batch import Trial, find_sub_batch, find_sub_batch_on_ray, largest_that_fits, run_on_ray_gpu
from dmkd.recipes.recipe import Recipe
from dmkd.runtime.progress import Silent
from dmkd.stores import DmkdError, UsageError

pytestmark = pytest.mark.xdist_group("ray")


def limited_to(limit, error=None):
    tried = []

    def attempt(count):
        tried.append(count)
        if count > limit:
            raise error or torch.cuda.OutOfMemoryError("CUDA out of memory.")

    return attempt, tried


@pytest.mark.parametrize(
    ("most", "limit", "tried"),
    [(64, 64, [64]), (64, 63, [64, 32]), (64, 5, [64, 32, 16, 8, 4]), (100, 30, [100, 50, 25]), (3, 1, [3, 2, 1])],
)
def test_halves_of_the_block_are_tried_until_one_fits(most, limit, tried):
    attempt, seen = limited_to(limit)
    assert largest_that_fits(attempt, most) == tried[-1]
    assert seen == tried


def test_cublas_without_room_for_its_workspace_is_out_of_memory_too():
    attempt, _ = limited_to(
        8, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    )
    assert largest_that_fits(attempt, 64) == 8


def test_other_errors_are_no_lack_of_memory():
    attempt, seen = limited_to(8, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        largest_that_fits(attempt, 64)
    assert seen == [64]


def test_where_nothing_fits_it_is_said_what_to_do():
    attempt, seen = limited_to(0)
    with pytest.raises(DmkdError, match="Not even one image .* --dtype bfloat16"):
        largest_that_fits(attempt, 4)
    assert seen == [4, 2, 1]


@pytest.fixture
def trial(tiny_generator, tiny_teacher):
    recipe = Recipe(
        "tiny", "", 32, None, 10, "ddpm", 100, 2.0, (0.4, 0.5), 3, "float32", 0, 1, compile=True, cpu_threads=1
    )
    return Trial(recipe, str(tiny_generator), CLASS_NAMES, ((str(tiny_teacher), None),), block_size=24)


def test_a_trial_samples_guided_decodes_and_labels(trial, monkeypatch):
    from dmkd.classifiers.classifier import Classifier
    from dmkd.generators.dit import Generator

    rows, decoded, labelled = [], [], []
    real_sample, real_logits = Generator.sample, Classifier.logits

    def sample(self, class_ids, seeds, **options):
        hook = self.transformer.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
        images = real_sample(self, class_ids, seeds, **options)
        hook.remove()
        decoded.append(len(images))
        if len(images) > 6:  # the memory that there is
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return images

    def logits(self, pixels):
        labelled.append(tuple(pixels.shape))
        return real_logits(self, pixels)

    monkeypatch.setattr(Generator, "sample", sample)
    monkeypatch.setattr(Classifier, "logits", logits)
    assert find_sub_batch(trial, "cpu") == 6
    assert rows == [48, 48, 24, 24, 12, 12], "two steps each, guided for all that the recipe's interval says"
    assert decoded == [24, 12, 6]
    assert labelled == [(252, 3, 32, 32)], "as many views at once as in a block"


def test_a_cpu_keeps_its_fixed_rule_and_tries_nothing(tiny_generator, tmp_path, monkeypatch):
    monkeypatch.setattr("dmkd.generate._find_sub_batch", lambda *_: pytest.fail("nothing is to be tried"))
    options = ImageOptions(str(tiny_generator), images=32, sampler="ddim", steps=2, block_size=16)
    store, _ = generate(str(tmp_path / "s.zarr"), options, LabelOptions(("none",)), RunOptions(0, "cpu"), Silent())
    assert store.recipe["sub_batch"] == 16


class FoundError(Exception):
    """Ends a run where its sub-batch is known."""


def recipe_for_a_cluster(generator, teacher, path, monkeypatch, **options):
    """The recipe and the trials of ``dmkd generate --device cuda --ray-address …`` where there is no GPU."""
    trials, recipes = [], []

    def on_ray(trial, address):
        trials.append((trial, address))
        return 4

    def create_store(path, recipe, **_):
        recipes.append(recipe)
        raise FoundError

    monkeypatch.setattr("dmkd.generate.find_sub_batch_on_ray", on_ray)
    monkeypatch.setattr("dmkd.generate.create_store", create_store)
    images = ImageOptions(str(generator), images=32, sampler="ddim", steps=2, block_size=16, **options)
    with pytest.raises(FoundError):
        generate(
            str(path),
            images,
            LabelOptions((str(teacher),)),
            RunOptions(None, "cuda", ray_address="ray-head:6379"),
            Silent(),
        )
    return recipes[0], trials


def test_a_driver_without_a_gpu_has_it_tried_on_the_cluster(tiny_generator, tiny_teacher, tmp_path, monkeypatch):
    recipe, trials = recipe_for_a_cluster(tiny_generator, tiny_teacher, tmp_path / "s.zarr", monkeypatch)
    assert (recipe["sub_batch"], recipe["dtype"], recipe["cpu_threads"]) == (4, "bfloat16", None)
    (trial, address) = trials[0]
    assert address == "ray-head:6379"
    assert (trial.generator, trial.teachers, trial.block_size) == (
        str(tiny_generator),
        ((str(tiny_teacher), None),),
        16,
    )


def test_a_sub_batch_that_is_given_is_not_looked_for(tiny_generator, tiny_teacher, tmp_path, monkeypatch):
    recipe, trials = recipe_for_a_cluster(tiny_generator, tiny_teacher, tmp_path / "s.zarr", monkeypatch, sub_batch=5)
    assert recipe["sub_batch"] == 5 and not trials


def test_a_cluster_that_is_not_there_is_found_out_at_once(trial):
    """Nobody listens at port 1; Ray itself would try again for minutes."""
    start = time.monotonic()
    with pytest.raises(
        UsageError, match=r"There is no Ray cluster at --ray-address 127\.0\.0\.1:1 .*`ray start --head`"
    ):
        find_sub_batch_on_ray(trial, "127.0.0.1:1")
    assert time.monotonic() - start < 10


@pytest.fixture(scope="module")
def ray_with_a_gpu():
    """Ray that believes in a GPU: it hands one out, and there is none."""
    import ray

    ray.init(
        "local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20
    )
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_on_ray_it_is_tried_in_a_worker_that_has_a_gpu(ray_with_a_gpu, trial):
    def in_worker(trial):
        import ray

        assert len(ray.get_gpu_ids()) == 1
        return find_sub_batch(trial, "cpu")

    assert run_on_ray_gpu(in_worker, dataclasses.replace(trial, block_size=8), address=None, failed="{}") == 8
    assert ray_with_a_gpu.is_initialized(), "a Ray that was there stays"


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU, the trial succeeds")
def test_errors_on_ray_are_one_sentence(ray_with_a_gpu, trial):
    with pytest.raises(DmkdError, match=r"could not be found on a Ray worker .*: say it with --sub-batch\.$") as caught:
        find_sub_batch_on_ray(trial)
    assert "\n" not in str(caught.value)
