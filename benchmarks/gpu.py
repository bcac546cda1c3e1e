"""What has to be measured on a GPU, in one go: speeds of light, equal bits, a ladder of accelerations, feeding and training.

    python benchmarks/gpu.py [--stages ABCD] [--minutes 10] [--json]
    python benchmarks/gpu.py --tiny --json         # tiny models, on a CPU in a minute: shows that the script works

    A    what the hardware reaches (matrix products, FP8, attention), and whether the GPU gives what the CPU gives
    B    a step of DiT-XL/2 made faster, rung by rung; the decoder; teachers in several precisions; the GPU's idle time in a block
    C    benchmarks/generation.py with 100 steps in batches of 64: dmkd beside DiTPipeline, eager and compiled
    D    the loader and the trainer beside the bare model; compilations; whether the CPU waits for the GPU

Every figure is a line of JSON as soon as it is there: {"stage": "B", "what": …, "value": …, "unit": …}. What has a bound says
``ok``. What this machine lacks, or what does not fit its memory or the ``--minutes`` of a stage, is ``skipped``, with the reason;
what goes wrong is ``failed``, and the rest goes on. The exit code is 1 if anything failed or was not ok. ``--json``: the last
line is all figures by stage. Weights and data are random. On a GPU times are medians of ten calls after three, by CUDA events.

Needs neither Ray nor an installed dmkd: ``PYTHONPATH=. python benchmarks/gpu.py`` runs from the repository.
"""

import argparse
import contextlib
import importlib
import json
import os
import sys
import tempfile

STAGES = {"A": ("ceilings", "correctness"), "B": ("ladder", "parts"), "C": ("pipelines",), "D": ("training",)}

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: as the command line does
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", default="".join(STAGES), help="letters; default: ABCD")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each stage; what does not fit is skipped")
    parser.add_argument("--device", help="default: cuda if there is a GPU")
    parser.add_argument("--tiny", action="store_true", help="tiny models and few repetitions")
    parser.add_argument("--json", action="store_true", help="last line: all figures")
    options = parser.parse_args()
    if odd := set(options.stages) - set(STAGES):
        parser.error(f"--stages {options.stages}: there is no stage {', '.join(sorted(odd))}")
    lines, results = sys.stdout, {}
    # Compilation is timed, so nothing compiled is there yet; what libraries print is not a figure.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache, contextlib.redirect_stdout(sys.stderr):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        import torch
        from gpu_stages.stage import Stage

        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if not (options.tiny or device.startswith("cuda")):
            parser.error("there is no GPU: --tiny runs tiny models on the CPU")
        for name in options.stages:
            stage = results[name] = Stage(name, device, options.tiny, 60 * options.minutes, lines)
            for module in STAGES[name]:
                stage.attempt(module, lambda: importlib.import_module(f"gpu_stages.{module}").run(stage))  # noqa: B023
    if options.json:
        print(json.dumps({name: stage.figures for name, stage in results.items()}))
    return int(any(stage.failed for stage in results.values()))


if __name__ == "__main__":
    sys.exit(main())
