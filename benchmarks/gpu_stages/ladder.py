"""Stage B, first half: milliseconds of a guided sampling step of DiT-XL/2, rung by rung.

Every rung begins with a new model of the same random weights, and samples through ``dmkd.generators.sampling.denoise``.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from generation import GUIDANCE, SCALES, make_models
from gpu_stages.ceilings import BACKENDS, only
from gpu_stages.fp8 import to_fp8
from gpu_stages.stage import Stage, Unavailable

from dmkd.generators.compiling import compile_models
from dmkd.generators.float8 import to_float8
from dmkd.generators.samplers import sampler_named
from dmkd.generators.sampling import denoise, draw_noise, image_generators
from dmkd.stores.errors import UsageError

TINY = replace(SCALES["tiny"], transformer={**SCALES["tiny"].transformer, "num_layers": 1})
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def run(stage: Stage) -> None:
    batch = 2 if stage.tiny else 64
    stage.attempt(f"a step, eager, {batch} images", lambda: step(stage, new(stage), batch), "ms", needs=30)
    for name, compile in COMPILED.items():
        stage.attempt(f"a step, {name}", lambda n=name, c=compile: compiled(stage, n, c, batch), needs=90)
    for backend in BACKENDS[:3]:
        what = f"a step, eager, SDPA {backend}"
        stage.attempt(what, lambda b=backend: with_backend(stage, b, batch), "ms", needs=30)
    for other in () if stage.tiny else (32, 96, 128, 256):
        what = f"a step, blocks compiled, {other} images, for each {batch}"
        stage.attempt(what, lambda n=other: batch / n * step(stage, as_dmkd_does(stage, new(stage)), n), "ms", needs=60)


def new(stage: Stage) -> Any:
    """The transformer with random weights, bfloat16, made on the device."""
    torch.manual_seed(0)
    with torch.device(stage.device):
        transformer, _ = make_models(TINY if stage.tiny else SCALES["XL/2"])
    return transformer.to(stage.device, torch.bfloat16).requires_grad_(False)


def sampling(stage: Stage, transformer: Any, count: int) -> Callable[[int], torch.Tensor]:
    """What samples ``count`` images with that many steps."""
    size = transformer.config.sample_size
    generators = image_generators(range(count))
    noise = draw_noise(generators, (4, size, size))
    options: dict[str, Any] = {"guidance": GUIDANCE, "guided_channels": 3, "null_class": 1000, "dtype": torch.bfloat16}
    options["device"] = stage.device
    solver, classes = sampler_named("ddpm").solver(SCHEDULE, True), torch.arange(count) % 1000
    return lambda steps: denoise(transformer, solver, noise, classes, generators, steps=steps, **options)


def step(stage: Stage, transformer: Any, count: int) -> float:
    """Milliseconds of a step, of some in a row."""
    steps, sample = 2 if stage.tiny else 10, sampling(stage, transformer, count)
    return 1000 * stage.seconds(lambda: sample(steps), repeats=5) / steps


def compiled(stage: Stage, name: str, compile: Callable[[Stage, Any], Any], count: int) -> None:
    """The first two steps, in which everything is compiled, and one after that."""
    transformer = compile(stage, new(stage))
    sample = sampling(stage, transformer, count)
    stage.figure(f"the first two steps, {name}", stage.once(lambda: sample(2)), "s")
    stage.figure(f"a step, {name}", step(stage, transformer, count), "ms")


def as_dmkd_does(stage: Stage, transformer: Any) -> Any:
    with stage.compiler():
        compile_models(transformer, torch.nn.Identity())
    return transformer


def by_block(stage: Stage, transformer: Any) -> Any:
    """As ``compile_models``, with Inductor's own settings."""
    transformer.pos_embed.register_forward_hook(lambda module, inputs, tokens: tokens.contiguous())
    with stage.compiler():
        for block in transformer.transformer_blocks:
            block.compile(dynamic=False)
    return transformer


def whole(stage: Stage, transformer: Any) -> Any:
    with stage.compiler():
        transformer.compile(dynamic=False)
    return transformer


def with_fused_qkv(stage: Stage, transformer: Any) -> Any:
    from diffusers.models.attention_processor import Attention, FusedAttnProcessor2_0

    for part in transformer.modules():
        if isinstance(part, Attention):
            part.fuse_projections()
            part.set_processor(FusedAttnProcessor2_0())
    return as_dmkd_does(stage, transformer)


def in_float8(stage: Stage, transformer: Any) -> Any:
    try:
        to_float8(transformer)
    except UsageError as error:
        raise Unavailable(str(error)) from error
    return as_dmkd_does(stage, transformer)


def by_scaled_mm(stage: Stage, transformer: Any) -> Any:
    stage.needs_fp8()
    for block in transformer.transformer_blocks:
        to_fp8(block.attn1)
        to_fp8(block.ff)
    return as_dmkd_does(stage, transformer)


COMPILED: dict[str, Callable[[Stage, Any], Any]] = {
    "blocks compiled, deterministic": as_dmkd_does,
    "blocks compiled": by_block,
    "compiled whole": whole,
    "blocks compiled, q, k and v in one": with_fused_qkv,
    "blocks compiled, FP8 by torchao": in_float8,
    "blocks compiled, FP8 by torch._scaled_mm": by_scaled_mm,
}


def with_backend(stage: Stage, backend: str, count: int) -> float:
    with only(backend):
        return step(stage, new(stage), count)
