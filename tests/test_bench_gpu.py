"""benchmarks/gpu.py runs before there is a GPU, on a machine that has not all packages; what it says is what happened."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from device_time import busy_seconds
from generation import put_null_class_at_1000
from gpu_stages.stage import Stage, Unavailable, differing

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
ABSENT = ("ray", "obstore", "simplejpeg", "tensorboard")


pytestmark = pytest.mark.xdist_group("bench_gpu")  # its run takes most of a minute: one process makes it


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """What a run with tiny models prints, where the packages that a bare machine lacks can't be imported."""
    folder = tmp_path_factory.mktemp("absent")
    for name in ABSENT:
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is not here')\n")
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--tiny", "--json", "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.slow
def test_every_line_is_a_figure_or_says_why_there_is_none(lines):
    for line in lines[:-1]:
        assert line["stage"] in "ABCD" and line["what"]
        assert len(line.keys() & {"value", "skipped"}) == 1, line
        assert "skipped" in line or (line["unit"] and line["value"] >= 0), line


@pytest.mark.slow
def test_the_last_line_holds_the_figures_of_every_stage(lines):
    *before, last = lines
    assert list(last) == list("ABCD")
    assert [line for stage, figures in last.items() for line in ({"stage": stage, **one} for one in figures)] == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "what"),
    [
        ("A", "matmul"),
        ("A", "SDPA FLASH_ATTENTION"),
        ("A", "render, lanczos"),
        ("A", "codec klt"),
        ("A", "digits in two processes"),
        ("A", "Loader.at against an epoch"),
        ("A", "a block after memory ran out"),
        ("B", "the first two steps, blocks compiled, deterministic"),
        ("B", "a step, compiled whole"),
        ("B", "a step, blocks compiled, q, k and v in one"),
        ("B", "decoder, 2 images, channels_last, compiled"),
        ("B", "test_resnet, 4 views, bfloat16, channels_last, compiled"),
        ("B", "a block of 4 steps"),
        ("C", "DiTPipeline"),
        ("C", "images/s of dmkd over DiTPipeline's, eager"),
        ("D", "loader, from memory"),
        ("D", "training in batches of 8: stored labels over class ids alone"),
        ("D", "--compile, uneven batches"),
    ],
)
def test_what_a_cpu_can_measure_is_measured(lines, stage, what):
    assert any("value" in figure for figure in lines[-1][stage] if figure["what"].startswith(what))


@pytest.fixture
def stage():
    return Stage("A", "cpu", tiny=False, limit=60, lines=io.StringIO())


def told(stage):
    return [json.loads(line) for line in stage.lines.getvalue().splitlines()]


def test_a_failure_is_a_line_with_its_place_and_the_rest_goes_on(stage):
    stage.attempt("bad", lambda: [][1])
    stage.attempt("good", lambda: 2.0, "ms")
    bad, good = told(stage)
    assert bad["failed"] == "IndexError: list index out of range" and "test_bench_gpu.py:" in bad["at"]
    assert (good["value"], good["unit"]) == (2.0, "ms")
    assert stage.failed


@pytest.mark.parametrize("error", [Unavailable("there is no GPU"), torch.OutOfMemoryError("no room")])
def test_what_the_machine_lacks_is_no_failure(stage, error):
    def measure():
        raise error

    stage.attempt("one", measure)
    assert told(stage) == [{"stage": "A", "what": "one", "skipped": str(error)}]
    assert not stage.failed


def test_what_does_not_fit_the_time_is_not_begun(stage):
    stage.attempt("long", lambda: pytest.fail("it was begun"), needs=61)
    assert "needs about 61 s" in told(stage)[0]["skipped"]


def test_a_figure_beyond_its_bound_fails_the_run(stage):
    stage.attempt("good", lambda: 0, "bytes", at_most=0)
    assert told(stage)[-1]["ok"] and not stage.failed
    stage.attempt("bad", lambda: 1, "bytes", at_most=0)
    assert not told(stage)[-1]["ok"] and stage.failed


def test_bytes_that_differ_are_counted():
    a = torch.tensor([1, 256 + 2, 3])
    assert differing(a, a) == 0 and differing(a, torch.tensor([1, 2, 3])) == 1
    with pytest.raises(ValueError, match="compared"):
        differing(a, a[:2])


def event(start, end, name="kernel", device="CUDA", annotation=False):
    times = SimpleNamespace(start=1e6 * start, end=1e6 * end)
    return SimpleNamespace(
        name=name, time_range=times, device_type=SimpleNamespace(name=device), is_user_annotation=annotation
    )


def test_a_gpu_is_never_busy_for_longer_than_its_kernels_run():
    kernels = [event(3, 4), event(0, 1), event(0.5, 2), event(0.6, 0.7)]
    others = [
        event(0, 10, "Optimizer.step", annotation=True),
        event(5, 6, "Memcpy HtoD (Pinned -> Device)"),
        event(5, 9, "aten::mm", device="CPU"),
    ]
    assert busy_seconds(kernels + others) == pytest.approx(3.0)
    assert busy_seconds(others) == 0


def test_the_pipeline_finds_the_null_class_of_a_model_with_fewer_classes(tiny_generator):
    from diffusers import DiTTransformer2DModel

    transformer = DiTTransformer2DModel.from_pretrained(tiny_generator / "transformer").eval()

    def output(*classes):
        latents = torch.ones(len(classes), 4, 8, 8)
        steps = torch.full((len(classes),), 500)
        with torch.no_grad():
            return transformer(latents, timestep=steps, class_labels=torch.tensor(classes)).sample

    before = output(3, 10)
    put_null_class_at_1000(transformer, 10)
    torch.testing.assert_close(output(3, 1000), before)
