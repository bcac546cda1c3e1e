"""Stage C: whole images, dmkd beside DiTPipeline: ``benchmarks/generation.py``."""

import generation
from gpu_stages.stage import Stage


def run(stage: Stage) -> None:
    stage.attempt("generation.py", lambda: generate(stage), needs=420)


def generate(stage: Stage) -> None:
    if stage.tiny:
        arguments = [
            "--model",
            "tiny",
            "--steps",
            "2",
            "--batch",
            "2",
            "--repeats",
            "1",
            "--no-compile",
            "--no-profile",
        ]
    else:
        arguments = ["--model", "XL/2", "--steps", "100", "--batch", "64"]
    results = generation.run(generation.parse([*arguments, "--device", stage.device]))
    for name, way in results["ways"].items():
        if "failed" in way:
            raise RuntimeError(f"{name}: {way['failed']}")
        stage.figure(name, way["images_per_s"], "images/s", batch=way["batch"])
        if busy := way.get("profile", {}).get("busy"):
            stage.figure(f"{name}: GPU busy", busy, "share of the time")
    for key in ("ratio_eager", "ratio_compiled"):
        if results[key] is not None:
            stage.figure(f"images/s of dmkd over DiTPipeline's, {key.removeprefix('ratio_')}", results[key], "ratio")
