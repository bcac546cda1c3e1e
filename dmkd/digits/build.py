"""Rebuild every bundled asset from scikit-learn's digits: ``python -m dmkd.digits.build --out dmkd/digits``.

About half an hour on two cores. Seeds and split are fixed; the same kind of machine, versions and number of threads give the
same weights. Results are printed and written to ``build_log.json``; contact sheets go where ``--sheet`` says.
"""

import argparse
import json
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from dmkd.digits import data, measure
from dmkd.digits.train_dit import make_scheduler, train_dit
from dmkd.digits.train_one_step import one_step, train_one_step
from dmkd.digits.train_teachers import PLANS, save_teacher, train_teacher
from dmkd.digits.train_vae import train_vae

THREADS = 1  # on shared cores a second thread waits more than it works
STAGES = ("heldout", "teachers", "vae", "dit", "judged", "one_step")
JUDGED_IMAGES = 1000
JUDGED_SEED = 404
GUIDANCES = (1.0, 2.0, 4.0)
DDIM_STEPS = 20
DDPM_STEPS = 50

# What suits this pipeline: guidance 1 to 2 teaches students best; digits may not be mirrored.
DEFAULTS = {
    "sampler": "ddim",
    "steps": DDIM_STEPS,
    "guidance": 2.0,
    "images": 3000,
    "teacher": "digits-resnet",
    "views": "rrc:4,scale=0.6:1,ratio=0.9:1.1,flip=0",
    "training": {
        "student": "test_efficientnet",
        "temperature": 10.0,
        "optimizer": "adamw",
        "lr": 2e-3,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_epochs": 2,
        "epochs": 22,  # 500 steps of 3000 images
        "batch_size": 128,
    },
}


def build_heldout(
    out: Path, originals: np.ndarray, class_ids: np.ndarray, train: np.ndarray, heldout: np.ndarray
) -> dict:
    """Write ``heldout.npz``: what students are tested on, and the proof that it was not trained on; returns the log."""
    np.savez_compressed(
        out / "heldout.npz",
        images=data.upsample(originals[heldout]),
        class_ids=class_ids[heldout],
        originals=originals[heldout],
        training_sha256=data.digests(originals[train]),
    )
    log = {"training_images": len(train), "heldout_images": len(heldout), "seed": data.SPLIT_SEED}
    return log | {"heldout_per_class": np.bincount(class_ids[heldout]).tolist()}


def build_vae(out: Path, images: np.ndarray) -> dict:
    """Train the autoencoder and write ``pipeline/vae`` in float16; returns the log."""
    vae, log = timed(train_vae, measure.to_unit(images))
    shutil.rmtree(out / "pipeline" / "vae", ignore_errors=True)
    vae.half().save_pretrained(out / "pipeline" / "vae", safe_serialization=True)
    return log


def build_dit(out: Path, images: np.ndarray, class_ids: np.ndarray) -> dict:
    """Train the DiT on the saved autoencoder's latents and write all of ``pipeline/`` in float16; returns the log."""
    from diffusers import AutoencoderKL, DiTPipeline

    vae = AutoencoderKL.from_pretrained(out / "pipeline" / "vae", torch_dtype=torch.float32).requires_grad_(False)
    dit, log = timed(train_dit, vae, measure.to_unit(images), torch.from_numpy(class_ids).long())
    pipeline = DiTPipeline(dit.half(), vae.half(), make_scheduler())
    # The constructor turns id2label around and forgets it; the folder's index needs it as facebook/DiT-XL-2-256 has it.
    pipeline.register_to_config(id2label={str(digit): str(digit) for digit in range(10)})
    pipeline.save_pretrained(out / "pipeline", safe_serialization=True)
    # diffusers notes the folder that the autoencoder was loaded from: a path of the machine that built it.
    vae_config = out / "pipeline" / "vae" / "config.json"
    config = json.loads(vae_config.read_text())
    config.pop("_name_or_path", None)
    vae_config.write_text(json.dumps(config, indent=2) + "\n")
    (out / "pipeline" / "defaults.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
    return log


def build_one_step(out: Path, sheet: Path | None) -> dict:
    """Train the one-step model on the saved pipeline, write ``one_step/`` in float16 and judge its images; returns the log."""
    from diffusers import DiTPipeline, DiTTransformer2DModel

    pipeline = DiTPipeline.from_pretrained(out / "pipeline").to(torch.float32)
    model, log = timed(train_one_step, pipeline.transformer, make_scheduler())
    shutil.rmtree(out / "one_step", ignore_errors=True)
    model.half().save_pretrained(out / "one_step", safe_serialization=True)
    model = DiTTransformer2DModel.from_pretrained(out / "one_step").to(torch.float32).eval()
    teacher = measure.load_teacher(out / "teachers" / "digits-resnet")
    class_ids = np.arange(JUDGED_IMAGES) % 10
    noise = torch.randn(JUDGED_IMAGES, 4, 8, 8, generator=torch.Generator().manual_seed(JUDGED_SEED))
    with torch.no_grad():
        latents = one_step(model, noise, torch.from_numpy(class_ids))
        pixels = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    images = measure.to_uint8(pixels)
    if sheet is not None:
        measure.contact_sheet(images, class_ids).save(sheet / "one-step.png")
    return log | {key: round(value, 4) for key, value in measure.judge(teacher, images, class_ids).items()}


def build_teachers(out: Path, images: np.ndarray, class_ids: np.ndarray) -> dict:
    """Train the teachers, write ``teachers/<name>/`` in float16, and count right answers after loading them again."""
    pixels, labels = measure.to_unit(images), torch.from_numpy(class_ids).long()
    heldout = np.load(out / "heldout.npz")
    shutil.rmtree(out / "teachers", ignore_errors=True)
    log = {}
    for name, plan in PLANS.items():
        started = time.perf_counter()
        model = train_teacher(plan, pixels, labels)
        save_teacher(model, plan, out / "teachers" / name)
        correct = measure.count_correct(
            measure.load_teacher(out / "teachers" / name), heldout["images"], heldout["class_ids"]
        )
        log[name] = {
            "model": plan.model,
            "parameters": sum(p.numel() for p in model.parameters()),
            "training_images": plan.images or len(images),
            "steps": plan.steps,
            "seed": plan.seed,
            "heldout_correct": correct,
            "heldout_accuracy": round(correct / len(heldout["class_ids"]), 4),
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(name, log[name], flush=True)
    return log


def judge_pipeline(out: Path, sheet: Path | None) -> list[dict]:
    """Sample from the saved pipeline; ``digits-resnet`` classifies the images. One row a sampler and guidance."""
    from diffusers import DDPMScheduler, DiTPipeline

    pipeline = DiTPipeline.from_pretrained(out / "pipeline")
    teacher = measure.load_teacher(out / "teachers" / "digits-resnet")
    class_ids = np.arange(JUDGED_IMAGES) % 10
    ddpm = DDPMScheduler.from_config(
        pipeline.scheduler.config, variance_type="learned_range", timestep_spacing="linspace"
    )
    runs = [("ddim", pipeline.scheduler, DDIM_STEPS, guidance) for guidance in GUIDANCES]
    runs += [("ddpm, learned variance", ddpm, DDPM_STEPS, guidance) for guidance in (1.0, 2.0)]
    rows = []
    for name, scheduler, steps, guidance in runs:
        started = time.perf_counter()
        images = measure.sample(pipeline, scheduler, class_ids, steps, guidance, JUDGED_SEED)
        row = {"sampler": name, "steps": steps, "guidance": guidance}
        row |= {"images_per_second": round(JUDGED_IMAGES / (time.perf_counter() - started), 1)}
        row |= {key: round(value, 4) for key, value in measure.judge(teacher, images, class_ids).items()}
        print(row, flush=True)
        rows.append(row)
        if sheet is not None:
            file = f"{name.split(',')[0]}-guidance{guidance:g}.png"
            measure.contact_sheet(images, class_ids).save(sheet / file)
    return rows


def timed(train, *arguments) -> tuple:
    """``train(*arguments)``, printing as it goes, with the seconds it took added to its numbers."""
    started = time.perf_counter()
    model, numbers = train(*arguments, log=lambda line: print(line, flush=True))
    return model, numbers | {"seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Build everything below ``--out``, or one stage of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the assets")
    parser.add_argument("--only", choices=STAGES, help="rebuild one stage from the earlier ones' files (default: all)")
    parser.add_argument("--sheet", type=Path, help="existing folder that receives contact sheets of generated digits")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    arguments.out.mkdir(parents=True, exist_ok=True)

    log_file = arguments.out / "build_log.json"
    originals, class_ids = data.load_originals()
    train, heldout = data.split(class_ids)
    images, labels = data.upsample(originals[train]), class_ids[train]
    build = {
        "heldout": lambda: build_heldout(arguments.out, originals, class_ids, train, heldout),
        "teachers": lambda: build_teachers(arguments.out, images, labels),
        "vae": lambda: build_vae(arguments.out, images),
        "dit": lambda: build_dit(arguments.out, images, labels),
        "judged": lambda: judge_pipeline(arguments.out, arguments.sheet),
        "one_step": lambda: build_one_step(arguments.out, arguments.sheet),
    }
    for stage in [arguments.only] if arguments.only else STAGES:
        reached = build[stage]()
        for weights in arguments.out.rglob("*.safetensors"):
            weights.chmod(0o644)  # safetensors writes them for the owner only
        log = json.loads(log_file.read_text()) if log_file.is_file() else {}
        log |= {stage: reached, "threads": THREADS, "versions": versions()}
        in_order = {key: log[key] for key in (*STAGES, "threads", "versions") if key in log}
        log_file.write_text(json.dumps(in_order, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Versions of Python and of every library that affects the weights."""
    libraries = ("torch", "diffusers", "timm", "numpy", "pillow", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}


if __name__ == "__main__":
    main()
