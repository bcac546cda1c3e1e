"""Images a second of a DiT on one device: dmkd's generator, diffusers' DiTPipeline, and DM-KD's way, in the same run.

    python benchmarks/generation.py [--json] [--quick] [--model XL/2|tiny] [--steps 100] [--batch 64] [--device cuda]

Weights are random: timing does not depend on their values. DiT-XL/2 and the VAE have the shapes of facebook/DiT-XL-2-256; the
teacher is a ResNet-34. What is timed is one sub-batch from class ids and seeds to uint8 images, and for dmkd on to the
teacher's logits: the ancestral sampler with guidance 2, as in dmkd's default recipe.

    dmkd              bfloat16, the given batch
    dmkd --compile    the same through torch.compile; compilation is not timed
    DiTPipeline       bfloat16, its own DDIM scheduler, the best of several batch sizes
    DM-KD's way       DiTPipeline with DDPMScheduler, float32 with TF32, ten images a call, as in DM-KD's sampling script

Utilisation: floating point operations of transformer, decoder and teacher (torch's FlopCounter, 2 a multiply-add), divided by
the time, as shares of the highest rate that a big matrix product reached in this run, and of the nominal one where it is
known. Without a GPU it runs a small model, and the figures say nothing about a GPU.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
}


def make_models(scale: Scale) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Transformer and VAE with random weights, on torch's default device."""
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    levels = len(scale.vae["block_out_channels"])
    transformer = DiTTransformer2DModel(
        in_channels=4, out_channels=8, patch_size=2, num_embeds_ada_norm=1000, **scale.transformer
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


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: str, repeats: int) -> float:
    """The fastest of some calls, after a warm-up call in which kernels are chosen and compiled."""
    call()
    times = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product: what this device actually reaches, now."""
    size, repeats = (8192, 20) if device.startswith("cuda") else (512, 2)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def products() -> None:
        for _ in range(repeats):
            torch.matmul(a, b)

    return 2 * size**3 * repeats / seconds_of(products, device, 3)


def nominal_rate(device: str) -> float | None:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    return next((rate for part, rate in NOMINAL_BF16.items() if part in name), None)


def time_dmkd(folder: Path, scale: Scale, options: argparse.Namespace, *, compile: bool) -> dict[str, Any]:
    """One sub-batch through ``Generator.sample`` and the teacher -> images a second; the profile of another one, if requested."""
    from dmkd.generators.load import load_generator

    generator = load_generator(str(folder), device=options.device, dtype="bfloat16", compile=compile)
    teacher = make_teacher(scale).to(options.device)
    batch, size = options.batch, scale.teacher_size

    @torch.inference_mode()
    def label(images: torch.Tensor) -> torch.Tensor:
        pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        return teacher(torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True))

    def sub_batch(steps: int = options.steps) -> None:
        images = generator.sample(
            torch.arange(batch) % 1000,
            torch.arange(batch),
            sampler="ddpm",
            steps=steps,
            guidance=GUIDANCE,
            guided_channels=3,
        )
        label(images)

    seconds = seconds_of(sub_batch, options.device, options.repeats)
    result = {"batch": batch, "dtype": "bfloat16", "images_per_s": batch / seconds, "seconds": seconds}
    if options.profile:
        result["profile"] = profile(lambda: sub_batch(min(options.steps, 5)), options.device)
    return result


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def time_pipeline(
    folder: Path, options: argparse.Namespace, dtype: torch.dtype, batches: list[int], scheduler: str | None = None
) -> dict[str, Any]:
    """diffusers' ``DiTPipeline``, the best of some batch sizes -> images a second. Its output is float images on the CPU."""
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    pipeline = diffusers.DiTPipeline.from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=False)
    if scheduler:
        config = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}
        pipeline.scheduler = getattr(diffusers, scheduler)(**config)
    pipeline.to(options.device)
    pipeline.set_progress_bar_config(disable=True)
    best: dict[str, Any] = {"images_per_s": 0.0}
    for batch in batches:

        def call(batch: int = batch) -> None:
            classes = [i % 1000 for i in range(batch)]
            pipeline(classes, guidance_scale=GUIDANCE, num_inference_steps=options.steps, output_type="np")

        try:
            seconds = seconds_of(call, options.device, options.repeats)
        except torch.cuda.OutOfMemoryError:
            break
        if batch / seconds > best["images_per_s"]:
            best = {"batch": batch, "images_per_s": batch / seconds, "seconds": seconds}
    return {"dtype": str(dtype).removeprefix("torch."), **best}


def profile(call: Callable[[], object], device: str, rows: int = 12) -> dict[str, Any]:
    """The operations that take longest, and the share of the time that the device is busy."""
    from torch.profiler import ProfilerActivity

    on_gpu = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    synchronise(device)
    start = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profiler:
        call()
        synchronise(device)
    wall = time.perf_counter() - start

    def own_time(event: Any) -> float:
        return event.self_device_time_total if on_gpu else event.self_cpu_time_total

    events = sorted(
        (event for event in profiler.key_averages() if not on_gpu or event.device_type.name == "CUDA"),
        key=own_time,
        reverse=True,
    )
    total = sum(map(own_time, events))
    top = [
        {"name": event.key, "calls": event.count, "share": own_time(event) / total if total else 0.0}
        for event in events[:rows]
    ]
    # One stream: kernels don't overlap, so that the sum of their times is the time in which the GPU is busy.
    return {"busy": total / 1e6 / wall if on_gpu else None, "top": top}


def print_profile(name: str, made: dict[str, Any]) -> None:
    busy = "" if made["busy"] is None else f", GPU busy {made['busy']:.0%} of the time under the profiler"
    print(f"\n{name}: where the time goes{busy}")
    for row in made["top"]:
        print(f"  {row['share']:6.1%} {row['calls']:7} x  {row['name'][:90]}")


def run(options: argparse.Namespace) -> dict[str, Any]:
    scale = SCALES[options.model]
    on_gpu = options.device.startswith("cuda")
    parts = flops_of_parts(scale)
    an_image = 2 * options.steps * parts["transformer"] + parts["decoder"] + parts["teacher"]
    peaks = {"measured bfloat16": matmul_rate(options.device, torch.bfloat16), "nominal": nominal_rate(options.device)}
    print(f"{options.model}, {options.steps} steps, guidance {GUIDANCE:g}: {an_image / 1e9:,.1f} GFLOP an image")
    print("  one forward: " + ", ".join(f"{name} {flops / 1e9:,.2f} GFLOP" for name, flops in parts.items()))
    print("  peak: " + ", ".join(f"{name} {rate / 1e12:,.2f} TFLOP/s" for name, rate in peaks.items() if rate) + "\n")

    batches = [batch for batch in (8, 16, 32, 64, 128) if on_gpu or batch <= 16]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_pipeline(scale, folder)
        ways: dict[str, Callable[[], dict[str, Any]]] = {
            "dmkd": lambda: time_dmkd(folder, scale, options, compile=False),
            "dmkd --compile": lambda: time_dmkd(folder, scale, options, compile=True),
            "DiTPipeline": lambda: time_pipeline(folder, options, torch.bfloat16, batches),
            "DM-KD's way": lambda: time_pipeline(folder, options, torch.float32, [10], "DDPMScheduler"),
        }
        if options.no_compile:
            del ways["dmkd --compile"]
        print(f"{'':16}{'dtype':>10}{'batch':>7}{'images/s':>10}{'TFLOP/s':>10}{'of measured':>13}{'of nominal':>12}")
        for way, measure in ways.items():
            with tf32(way == "DM-KD's way"):
                result = measure()
            labelled = an_image if way.startswith("dmkd") else an_image - parts["teacher"]
            rate = result["images_per_s"] * labelled
            result["flops_per_s"] = rate
            result["utilisation"] = {key: rate / peak for key, peak in peaks.items() if peak}
            results[way] = result
            shares = "".join(
                f"{rate / peak:{width}.1%}" if peak else f"{'':{width}}"
                for peak, width in zip(peaks.values(), (13, 12), strict=True)
            )
            speed = f"{result['images_per_s']:10.3g}{rate / 1e12:10.3g}{shares}"
            print(f"{way:16}{result['dtype']:>10}{result.get('batch', 0):7}{speed}", flush=True)
            if on_gpu:
                torch.cuda.empty_cache()
    for way, result in results.items():
        if "profile" in result:
            print_profile(way, result["profile"])
    hardware = torch.cuda.get_device_name(options.device) if on_gpu else "CPU"
    return {
        "hardware": hardware,
        "torch": torch.__version__,
        "model": options.model,
        "steps": options.steps,
        "flop_per_image": an_image,
        "peaks": peaks,
        "ways": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="last line: all figures")
    parser.add_argument("--quick", action="store_true", help="the tiny model, 4 steps, batch 8, one repetition")
    parser.add_argument("--model", choices=list(SCALES), help="default: XL/2 on a GPU, tiny without one")
    parser.add_argument("--steps", type=int, help="default: 100 on a GPU, 10 without one")
    parser.add_argument("--batch", type=int, help="dmkd's sub-batch; default: 64 on a GPU, 16 without one")
    parser.add_argument("--repeats", type=int, help="timed runs of each, the fastest counts; default: 2")
    parser.add_argument("--device", help="default: cuda if there is a GPU")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave dmkd --compile out, as --quick does without a GPU"
    )
    parser.add_argument("--no-profile", dest="profile", action="store_false", help="leave the profiler's tables out")
    options = parser.parse_args()
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = options.device.startswith("cuda")
    small = options.quick or not on_gpu
    options.model = options.model or ("tiny" if small else "XL/2")
    options.steps = options.steps or (4 if options.quick else 100 if on_gpu else 10)
    options.batch = options.batch or (8 if options.quick else 64 if on_gpu else 16)
    options.no_compile = options.no_compile or (options.quick and not on_gpu)
    options.repeats = options.repeats or (1 if options.quick else 2)
    if not on_gpu:
        print("no GPU: this shows that the benchmark runs; its figures are a CPU's and say nothing about a GPU.\n")
    results = run(options)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
