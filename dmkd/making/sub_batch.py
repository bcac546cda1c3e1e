"""How many images a GPU can sample at once: tried, not estimated."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from dmkd.recipes.recipe import Recipe
from dmkd.recipes.zero_shot import ClassPrompts
from dmkd.runtime.devices import release_gpu_memory
from dmkd.runtime.failures import is_out_of_memory, named_line
from dmkd.runtime.ray_session import ray_session
from dmkd.stores.errors import DmkdError

Result = TypeVar("Result")

# Of the GPU's memory, left free in the trial: fragmentation, and teachers that come later.
HEADROOM = 0.1


@dataclass(frozen=True)
class Trial:
    """What is tried: the work of one block, in as many sub-batches as it takes. Small and picklable."""

    recipe: Recipe
    generator: str  # ``GeneratorSource.weights``
    class_names: Sequence[str]
    teachers: tuple[tuple[str, ClassPrompts | None], ...]  # sources, and the prompts of those that are made of words
    block_size: int
    folder: str = field(default_factory=os.getcwd)  # where the user's own functions are looked for, as here


def largest_that_fits(attempt: Callable[[int], object], most: int) -> int:
    """The first of ``most``, its half (rounded up), the half of that, … for which ``attempt`` does not run out of memory.

    Halves, so that a block is cut into sub-batches with little left over. Raises ``DmkdError`` if not even 1 fits.
    """
    count = most
    while not _fits(attempt, count):
        if count == 1:
            raise DmkdError(
                "Not even one image at a time fits into the GPU's memory beside the teachers: use --dtype bfloat16, "
                "--teacher none, or a GPU with more memory."
            )
        count = -(-count // 2)
    return count


def find_sub_batch(trial: Trial, device: str) -> int:
    """The largest sub-batch with which this process can do a trial on its GPU, leaving ``HEADROOM`` of the memory free.

    Two guided steps are sampled, decoded and labelled: a step needs as much memory as any other. With ``compile`` too the
    models are tried uncompiled, which needs no less memory and saves minutes of compiling for each size.
    """
    import torch

    on_gpu, index = device.startswith("cuda"), torch.device(device).index  # None: the current GPU
    if on_gpu:
        torch.cuda.set_per_process_memory_fraction(1 - HEADROOM, index)
    models: list[tuple[Any, list[Any]]] = []  # loaded within the first attempt: they too may not fit

    def attempt(count: int) -> None:
        if not models:
            models.append(_load(trial, device))
        _sample_and_label(trial, *models[0], count)

    try:
        return largest_that_fits(attempt, trial.block_size)
    finally:
        models.clear()
        release_gpu_memory()
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0, index)


def find_sub_batch_on_ray(trial: Trial, address: str | None = None) -> int:
    """``find_sub_batch`` on one GPU of a Ray cluster: the one at ``address``, or the one that this process is in, or one
    that is started here and stopped after. Waits until a GPU is free. Raises what :func:`ray_session` does."""
    failed = "The largest sub-batch could not be found on a Ray worker ({}): say it with --sub-batch."
    return run_on_ray_gpu(find_sub_batch, trial, "cuda", address=address, failed=failed)


def run_on_ray_gpu(function: Callable[..., Result], *arguments: object, address: str | None, failed: str) -> Result:
    """Call a function in a Ray worker that is given a GPU -> what it returns; errors of dmkd stay what they are, others are
    ``failed``, a sentence with room for the reason.

    The worker process ends after the call, and with it what it held on the GPU."""
    import ray

    with ray_session(1, "cuda", address):
        remote = ray.remote(num_gpus=1, num_cpus=1, max_calls=1, max_retries=0)(function)
        try:
            return ray.get(remote.remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DmkdError):
                raise type(error.cause)(str(error.cause)) from None
            raise DmkdError(failed.format(named_line(error.cause))) from error


def _fits(attempt: Callable[[int], object], count: int) -> bool:
    try:
        attempt(count)
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Here the error is gone, and with it the frames that held the attempt's tensors.
    release_gpu_memory()
    return False


def _load(trial: Trial, device: str) -> tuple[Any, list[Any]]:
    from dmkd.classifiers.load import load_classifier
    from dmkd.generators.load import load_generator
    from dmkd.runtime.devices import make_deterministic
    from dmkd.runtime.own_code import look_in

    look_in(trial.folder)
    make_deterministic(device, trial.recipe.cpu_threads)
    generator = load_generator(
        trial.generator,
        device=device,
        dtype=trial.recipe.dtype,
        vae_dtype=trial.recipe.vae_dtype,
        wording=trial.recipe.wording(trial.class_names),
        image_size=trial.recipe.image_size,
        arguments=trial.recipe.generator_args,
    )
    return generator, [load_classifier(source, device=device, prompts=prompts) for source, prompts in trial.teachers]


def _sample_and_label(trial: Trial, generator: Any, teachers: Sequence[Any], count: int) -> None:
    import torch

    from dmkd.making.images import make_images
    from dmkd.making.label_sets import new_view_set
    from dmkd.making.labelling import VIEWS_AT_ONCE, label_views
    from dmkd.views.policy import ViewPolicy, ViewsWanted

    recipe = replace(trial.recipe, sub_batch=count)
    if recipe.sampler is not None:
        recipe = replace(recipe, steps=2, guidance_interval=None)
    ids = np.arange(min(count, trial.block_size))
    images, *_ = make_images(generator, recipe, ids)
    num_views = max(1, VIEWS_AT_ONCE // len(images))
    whole_image = np.tile(np.array([0, 0, 1, 1, 0], np.float32), (len(images), num_views, 1))

    def label() -> None:
        for teacher in teachers:
            size = (images.shape[1], images.shape[2])
            seen = new_view_set(ViewsWanted(ViewPolicy()), 0, True, teacher, size, trial.block_size)
            label_views(teacher, images, whole_image, seen)

    if images.device.type != "cuda":
        label()
        return
    torch.cuda.synchronize(images.device)

    def label_beside() -> None:
        with torch.cuda.stream(torch.cuda.Stream(images.device)):
            label()

    # As a block is labelled beside the sampling of the next: both need their memory at the same time.
    with ThreadPoolExecutor(1) as thread:
        labelling = thread.submit(label_beside)
        make_images(generator, recipe, ids)
        labelling.result()
