"""Images a second of a DiT on one device: dmkd's generator, diffusers' DiTPipeline, and DM-KD's way, in turns.

    python benchmarks/generation.py [--json] [--quick] [--model XL/2|tiny|digits] [--steps 100] [--batch 64] [--device cuda]

Weights are random: timing does not depend on their values. DiT-XL/2 and the VAE have the shapes of facebook/DiT-XL-2-256; the
teacher is a ResNet-34. ``digits`` is the bundled pipeline with its trained weights, in float32. All sample with guidance 2
and the same number of steps; the ways take turns, so that a busy machine slows them all alike.

    dmkd                 the default recipe: from class ids and seeds by the ancestral sampler to uint8 images, and on to
                         the teacher's logits
    dmkd, DDIM           images alone, with the sampler of DiTPipeline: the work that DiTPipeline does
    DiTPipeline          its own DDIM scheduler, the same batch and dtype; images to uint8 on the device, as dmkd's
    … --compile          the same through dmkd's compile=True; compilation is not timed
    … compiled           transformer and decoder through torch.compile
    DM-KD's way          DiTPipeline with DDPMScheduler, float32 with TF32, ten images a call, as in DM-KD's sampling script

``images_per_s`` is that of the fastest call. ``ratio_eager`` and ``ratio_compiled`` are images a second of "dmkd, DDIM" over
those of DiTPipeline, equal work: the median over pairs of neighbouring calls.

Utilisation: floating point operations of transformer, decoder and teacher (torch's FlopCounter, 2 a multiply-add), divided by
the time, as shares of the highest rate that a big matrix product reached in this run, and of the nominal one where it is
known. Without a GPU it runs a small model, and the figures say nothing about a GPU.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: as the command line does

import torch
from device_time import print_profile, profile, seconds_of

from dmkd import digits
from dmkd.runtime.precision import tf32
from dmkd.stores.errors import DmkdError

NOMINAL_BF16 = {
    "H100 80GB HBM3": 989e12,
    "H100 SXM": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}  # dense, NVIDIA's data sheets
GUIDANCE = 2.0


@dataclass(frozen=True)
class Scale:
    """A generator's and a teacher's shapes."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    teacher: str
    teacher_size: int
    classes: int = 1000
    dtype: str = "bfloat16"
    folder: Path | None = None  # with trained weights; None: random ones


_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
SCALES = {
    "XL/2": Scale(
        {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "sample_size": 32},
        {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 256},
        "resnet34",
        224,
    ),
    "tiny": Scale(
        {"num_attention_heads": 4, "attention_head_dim": 32, "num_layers": 4, "sample_size": 8},
        {"block_out_channels": (16, 32, 32), "layers_per_block": 1, "sample_size": 32, "norm_num_groups": 8},
        "test_resnet",
        32,
    ),
    "digits": Scale(
        {"num_attention_heads": 4, "attention_head_dim": 24, "num_layers": 4, "sample_size": 8},
        {
            "block_out_channels": (8, 24, 32),
            "layers_per_block": 1,
            "sample_size": 32,
            "norm_num_groups": 8,
            "mid_block_add_attention": False,
        },
        "test_resnet",
        32,
        classes=10,
        dtype="float32",
        folder=digits.PIPELINE,
    ),
}


def make_models(scale: Scale) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Transformer and VAE with random weights, on torch's default device."""
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    levels = len(scale.vae["block_out_channels"])
    transformer = DiTTransformer2DModel(
        in_channels=4, out_channels=8, patch_size=2, num_embeds_ada_norm=scale.classes, **scale.transformer
    )
    vae = AutoencoderKL(
        down_block_types=(_DOWN,) * levels, up_block_types=(_UP,) * levels, latent_channels=4, **scale.vae
    )
    return transformer.eval(), vae.eval()


def save_pipeline(scale: Scale, folder: Path) -> None:
    """A pipeline folder that ``load_generator`` and ``DiTPipeline`` both read."""
    from diffusers import DDIMScheduler, DiTPipeline

    torch.manual_seed(0)
    transformer, vae = make_models(scale)
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    DiTPipeline(transformer.bfloat16(), vae.bfloat16(), scheduler).save_pretrained(folder)


def make_teacher(scale: Scale) -> torch.nn.Module:
    import timm

    return timm.create_model(scale.teacher, pretrained=False, num_classes=1000).eval()


def flops_of_parts(scale: Scale) -> dict[str, float]:
    """Floating point operations an image of one forward of each part, counted on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        transformer, vae = make_models(scale)
        teacher = make_teacher(scale)
        size = scale.transformer["sample_size"]
        latents, zeros = torch.empty(2, 4, size, size), torch.zeros(2, dtype=torch.int64)
        calls: dict[str, Callable[[], object]] = {
            "transformer": lambda: transformer(latents, timestep=zeros, class_labels=zeros),
            "decoder": lambda: vae.decode(latents),  # type: ignore[operator]
            "teacher": lambda: teacher(torch.empty(2, 3, scale.teacher_size, scale.teacher_size)),
        }
        counted = {}
        for name, call in calls.items():
            with FlopCounterMode(display=False) as counter:
                call()
            counted[name] = counter.get_total_flops() / 2
    return counted


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product: what this device actually reaches, now."""
    size, repeats = (8192, 20) if device.startswith("cuda") else (512, 2)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def products() -> None:
        for _ in range(repeats):
            torch.matmul(a, b)

    products()  # chooses the kernel
    return 2 * size**3 * repeats / min(seconds_of(products, device) for _ in range(3))


def nominal_rate(device: str) -> float | None:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    return next((rate for part, rate in NOMINAL_BF16.items() if part in name), None)


@dataclass
class Way:
    """One way to make images: ``call`` makes ``batch`` of them."""

    call: Callable[[], object]
    batch: int
    dtype: str
    labels: bool = False  # whether the teacher's logits are made too
    tf32: bool = False
    profiled: Callable[[], object] | None = None  # the same with few steps, for the profiler
    seconds: list[float] = field(default_factory=list)
    failure: str | None = None

    def attempt(self, call: Callable[[], object]) -> Any:
        """What ``call`` returns; None where it fails, which ends this way and leaves the others."""
        if self.failure is None:
            try:
                with tf32(self.tf32):
                    return call()
            except Exception as error:
                self.failure = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
        return None

    @property
    def images_per_s(self) -> float | None:
        """By the fastest call, which is the least disturbed."""
        return None if self.failure else self.batch / min(self.seconds)

    def results(self) -> dict[str, Any]:
        if self.failure:
            return {"batch": self.batch, "dtype": self.dtype, "failed": self.failure}
        return {
            "batch": self.batch,
            "dtype": self.dtype,
            "images_per_s": self.images_per_s,
            "seconds": min(self.seconds),
            "median_seconds": statistics.median(self.seconds),
        }


def ways_of_dmkd(folder: Path, scale: Scale, options: argparse.Namespace, *, compile: bool) -> dict[str, Way]:
    """Sub-batches through ``Generator.sample``: the default recipe with the teacher's logits, and DDIM without."""
    from dmkd.generators.load import load_generator

    generator: Any = load_generator(str(folder), device=options.device, dtype=scale.dtype, compile=compile)
    teacher = make_teacher(scale).to(options.device)
    batch, size = options.batch, scale.teacher_size

    def sample(sampler: str, steps: int) -> torch.Tensor:
        return generator.sample(
            torch.arange(batch) % scale.classes,
            torch.arange(batch),
            sampler=sampler,
            steps=steps,
            guidance=GUIDANCE,
            guided_channels=3 if sampler == "ddpm" else 4,  # as each of them does
        )

    @torch.inference_mode()
    def recipe(steps: int) -> None:
        pixels = sample("ddpm", steps).permute(0, 3, 1, 2).float() / 127.5 - 1
        teacher(torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True))

    name, few = "dmkd --compile" if compile else "dmkd", min(options.steps, 5)
    return {
        name: Way(lambda: recipe(options.steps), batch, scale.dtype, labels=True, profiled=lambda: recipe(few)),
        f"{name}, DDIM": Way(lambda: sample("ddim", options.steps), batch, scale.dtype),
    }


def way_of_pipeline(
    folder: Path,
    scale: Scale,
    options: argparse.Namespace,
    *,
    compile: bool = False,
    dtype: str | None = None,
    batch: int | None = None,
    scheduler: str | None = None,
) -> Way:
    """diffusers' ``DiTPipeline``, in its own way but for the arguments that are given; to uint8 images on the device."""
    import diffusers

    dtype, batch = dtype or scale.dtype, batch or options.batch
    diffusers.utils.logging.disable_progress_bar()
    pipeline: Any = diffusers.DiTPipeline.from_pretrained(
        folder, torch_dtype=getattr(torch, dtype), low_cpu_mem_usage=False
    )
    if scheduler:
        config = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}
        pipeline.scheduler = getattr(diffusers, scheduler)(**config)
    put_null_class_at_1000(pipeline.transformer, scale.classes)
    pipeline.to(options.device)
    pipeline.set_progress_bar_config(disable=True)
    if compile:
        pipeline.transformer.compile()
        pipeline.vae.decoder.compile()
    classes = [i % scale.classes for i in range(batch)]

    def call() -> torch.Tensor:
        made = pipeline(classes, guidance_scale=GUIDANCE, num_inference_steps=options.steps, output_type="pt")
        return (made.images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    return Way(call, batch, dtype)


def put_null_class_at_1000(transformer: torch.nn.Module, classes: int) -> None:
    """``DiTPipeline`` takes class 1000 for none, whatever the model: make that a copy of the embedding after the last class."""
    for module in transformer.modules():
        if type(module).__name__ == "LabelEmbedding" and classes != 1000:
            table: Any = module.embedding_table
            rows = torch.arange(1001).clamp(max=classes)
            module.embedding_table = torch.nn.Embedding.from_pretrained(table.weight.detach()[rows])


def make_ways(folder: Path, scale: Scale, options: argparse.Namespace) -> dict[str, Way]:
    """Ours and theirs, each beside its rival."""
    ways = ways_of_dmkd(folder, scale, options, compile=False)
    ways["DiTPipeline"] = way_of_pipeline(folder, scale, options)
    if not options.no_compile:
        try:
            ways |= ways_of_dmkd(folder, scale, options, compile=True)
        except DmkdError as error:  # this machine can't compile
            print(f"dmkd --compile left out: {error}")
        ways["DiTPipeline compiled"] = way_of_pipeline(folder, scale, options, compile=True)
    dm_kd = way_of_pipeline(folder, scale, options, dtype="float32", batch=10, scheduler="DDPMScheduler")
    return ways | {"DM-KD's way": replace(dm_kd, tf32=True)}


def ratio(ways: dict[str, Way], ours: str, theirs: str) -> float | None:
    """Images a second of the one over those of the other: the median over pairs of calls that were made within moments."""
    pair = [ways[name] for name in (ours, theirs) if name in ways and not ways[name].failure]
    return (
        statistics.median(b / a for a, b in zip(*(way.seconds for way in pair), strict=True))
        if len(pair) == 2
        else None
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    scale = SCALES[options.model]
    on_gpu = options.device.startswith("cuda")
    parts = flops_of_parts(scale)
    an_image = 2 * options.steps * parts["transformer"] + parts["decoder"] + parts["teacher"]
    peaks = {"measured bfloat16": matmul_rate(options.device, torch.bfloat16), "nominal": nominal_rate(options.device)}
    print(f"{options.model}, {options.steps} steps, guidance {GUIDANCE:g}: {an_image / 1e9:,.1f} GFLOP an image")
    print("  one forward: " + ", ".join(f"{name} {flops / 1e9:,.2f} GFLOP" for name, flops in parts.items()))
    print("  peak: " + ", ".join(f"{name} {rate / 1e12:,.2f} TFLOP/s" for name, rate in peaks.items() if rate) + "\n")

    with tempfile.TemporaryDirectory() as name:
        folder = scale.folder or Path(name)
        if scale.folder is None:
            save_pipeline(scale, folder)
        ways = make_ways(folder, scale, options)
        for way in ways.values():
            way.attempt(way.call)  # kernels are chosen and compiled
        for number in range(options.repeats):
            for way in list(ways.values())[:: 1 if number % 2 else -1]:
                way.seconds.append(way.attempt(lambda way=way: seconds_of(way.call, options.device)))
        results = {name: way.results() for name, way in ways.items()}
        print(f"{'':22}{'dtype':>10}{'batch':>7}{'images/s':>10}{'TFLOP/s':>10}{'of measured':>13}{'of nominal':>12}")
        for name, way in ways.items():
            if way.images_per_s is None:
                print(f"{name:22}{way.dtype:>10}{way.batch:7}  {way.failure}")
                continue
            rate = way.images_per_s * (an_image if way.labels else an_image - parts["teacher"])
            utilisation = {key: rate / peak for key, peak in peaks.items() if peak}
            results[name] |= {"flops_per_s": rate, "utilisation": utilisation}
            shares = "".join(
                f"{rate / peak:{width}.1%}" if peak else f"{'':{width}}"
                for peak, width in zip(peaks.values(), (13, 12), strict=True)
            )
            print(
                f"{name:22}{way.dtype:>10}{way.batch:7}{way.images_per_s:10.3g}{rate / 1e12:10.3g}{shares}", flush=True
            )
        ratios = {
            "ratio_eager": ratio(ways, "dmkd, DDIM", "DiTPipeline"),
            "ratio_compiled": ratio(ways, "dmkd --compile, DDIM", "DiTPipeline compiled"),
        }
        for key, value in ratios.items():
            if value:
                print(f"{key.replace('_', ', ')}: dmkd makes {value:.3f} times as many images a second as DiTPipeline")
        for name, way in ways.items():
            if (
                options.profile
                and way.profiled
                and (made := way.attempt(lambda way=way: profile(way.profiled, options.device)))
            ):
                results[name]["profile"] = made
                print_profile(name, made)
    hardware = torch.cuda.get_device_name(options.device) if on_gpu else "CPU"
    return {
        "hardware": hardware,
        "torch": torch.__version__,
        "model": options.model,
        "steps": options.steps,
        "flop_per_image": an_image,
        "peaks": peaks,
        "ways": results,
        **ratios,
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, of the command line if no ``arguments`` are given, with their defaults for this machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="last line: all figures")
    parser.add_argument("--quick", action="store_true", help="the tiny model, 4 steps, batch 8, one repetition")
    parser.add_argument("--model", choices=list(SCALES), help="default: XL/2 on a GPU, tiny without one")
    parser.add_argument("--steps", type=int, help="default: 100 on a GPU, 10 without one")
    parser.add_argument("--batch", type=int, help="images a call; default: 64 on a GPU, 16 without one")
    parser.add_argument("--repeats", type=int, help="timed calls of each way, in turns; default: 3")
    parser.add_argument("--device", help="default: cuda if there is a GPU")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave the compiled ways out, as --quick does without a GPU"
    )
    parser.add_argument("--no-profile", dest="profile", action="store_false", help="leave the profiler's tables out")
    options = parser.parse_args(arguments)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = options.device.startswith("cuda")
    small = options.quick or not on_gpu
    options.model = options.model or ("tiny" if small else "XL/2")
    options.steps = options.steps or (4 if options.quick else 100 if on_gpu else 10)
    options.batch = options.batch or (8 if options.quick else 64 if on_gpu else 16)
    options.no_compile = options.no_compile or (options.quick and not on_gpu)
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


def main() -> None:
    options = parse()
    if not options.device.startswith("cuda"):
        print("no GPU: this shows that the benchmark runs; its figures are a CPU's and say nothing about a GPU.\n")
    results = run(options)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
