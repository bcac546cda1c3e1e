"""No step of a sampling loop makes the CPU wait for the GPU: shown without one."""

import copy

import pytest
import torch
from absent_gpu import WaitsForGpuError, absent_gpu, to_absent_gpu

from dmkd.generators.load import load_generator
from dmkd.generators.samplers import SAMPLERS
from dmkd.generators.samplers.solver import DiffusersSolver
from dmkd.runtime.accelerators import upload

OPTIONS = {"steps": 4, "guidance": 2.0, "guided_channels": 3}


@pytest.fixture(scope="module")
def on_cpu(tiny_generator):
    return load_generator(str(tiny_generator), device="cpu", dtype="bfloat16")


@pytest.fixture
def load(on_cpu, tiny_generator, monkeypatch):
    """``load_generator`` onto the absent GPU; the weights' files are read once, before."""

    def to(self, *args, **kwargs):
        return to_absent_gpu(self) if args == ("cuda",) else torch.nn.Module.to(self, *args, **kwargs)

    monkeypatch.setattr(
        "dmkd.generators.dit_files.load_model", lambda _, part, __: copy.deepcopy(getattr(on_cpu, part.name))
    )
    for part in (on_cpu.transformer, on_cpu.vae):
        monkeypatch.setattr(type(part), "to", to)
    return lambda: load_generator(str(tiny_generator), device="cuda", dtype="bfloat16")


@pytest.mark.parametrize("interval", [None, (0.2, 0.6)])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_from_seeds_to_pixels_nothing_is_waited_for(load, sampler, interval):
    with absent_gpu():
        generator = load()
        latents = generator.latents([1, 2, 3], [4, 5, 6], sampler=sampler, guidance_interval=interval, **OPTIONS)
        images = generator.decode(latents)
    assert (latents.device.type, latents.dtype, tuple(latents.shape)) == ("cuda", torch.float32, (3, 4, 8, 8))
    assert (images.device.type, tuple(images.shape)) == ("cuda", (3, 3, 32, 32))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_apple_gpu_is_asked_for_nothing_that_it_lacks(load, sampler):
    with absent_gpu(kind="mps"):
        generator = load()
        images = generator.decode(generator.latents([1, 2, 3], [4, 5, 6], sampler=sampler, **OPTIONS))
    assert tuple(images.shape) == (3, 3, 32, 32)


def test_a_range_of_guidance_is_not_waited_for_either(load):
    import numpy as np

    with absent_gpu():
        options = {**OPTIONS, "guidance": np.array([1.5, 2.5], np.float32)}
        assert load().latents([1, 2], [4, 5], sampler="ddpm", **options).device.type == "cuda"


@pytest.mark.parametrize("kept", [True, False])
def test_on_a_gpu_the_decoder_is_channels_last_where_that_is_kept(on_cpu, load, monkeypatch, kept):
    monkeypatch.setattr("dmkd.generators.dit._group_norm_keeps_channels_last", lambda device: kept)
    with absent_gpu():
        weight = load().vae.decoder.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is kept and weight.is_contiguous() is not kept
    assert on_cpu.vae.decoder.conv_in.weight.is_contiguous()


def test_attention_is_fused(on_cpu):
    processors = [part.processor for part in on_cpu.transformer.modules() if hasattr(part, "processor")]
    assert {type(processor).__name__ for processor in processors} == {"AttnProcessor2_0"}


def test_the_loop_with_diffusers_own_unipc_would_be_caught(on_cpu, load, monkeypatch):
    theirs = SAMPLERS["unipc"].solver(on_cpu.scheduler_config, True).schedule
    monkeypatch.setattr(SAMPLERS["unipc"], "solver", lambda *_: DiffusersSolver(theirs))
    with absent_gpu(), pytest.raises(WaitsForGpuError, match="is waited for"):
        load().latents([1, 2], [4, 5], sampler="unipc", **OPTIONS)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: torch.arange(3).to("cuda"),
        lambda x: torch.arange(3).to("cuda", non_blocking=True),  # from memory that is not page-locked
        lambda x: torch.tensor([1, 2], device="cuda"),
        lambda x: x.copy_(torch.zeros(4)),
        lambda x: torch.where(x > 0, x, torch.tensor(0.0)),  # torch uploads it
        lambda x: x[torch.tensor([0, 2])],
    ],
)
def test_what_waits_is_noticed(wait):
    with absent_gpu(), pytest.raises(WaitsForGpuError):
        wait(upload(torch.arange(4.0), "cuda"))


def test_what_does_not_wait_is_let_pass():
    with absent_gpu():
        x = upload(torch.arange(4.0), "cuda")
        x = (x * torch.tensor(2.0) + x.mean()) / float(
            torch.tensor(3.0)
        )  # numbers of the CPU are arguments of a kernel
        x.add_(torch.ones(4, device="cuda"))
        assert x.device.type == "cuda" and torch.arange(4)[torch.arange(4) > 1].tolist() == [2, 3]
