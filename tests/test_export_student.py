"""What becomes of a student that leaves: a folder that timm loads, a card that says how it was made."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from conftest import filled_store

from dmkd import export_student as export
from dmkd.classifiers.load import load_classifier
from dmkd.cli.main import main
from dmkd.stores import UsageError
from dmkd.train import train
from dmkd.training.training_recipe import resolve_training


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a CIFAR network, measured on its own store."""
    folder = tmp_path_factory.mktemp("export")
    recipe = {"generator": "facebook/DiT-XL-2-256", "sampler": "ddpm", "steps": 100, "guidance": 2.0}
    store = filled_store(folder / "s.zarr", num_images=32, image_shape=(32, 32, 3), recipe=recipe)
    _, training = resolve_training(store, {"student": "wrn_16_1", "epochs": 3, "batch_size": 32, "lr": 0.05})
    train(training, store, folder / "run", device="cpu", evaluate_on=store.path)
    return folder / "run"


@pytest.mark.parametrize("which", ["student", "best"])
def test_timm_loads_what_was_exported(run, tmp_path, which):
    written = export.export_student(run, tmp_path / "out", which=which)
    assert written["files"] == ["README.md", "config.json", "model.safetensors"]
    x = torch.randn(2, 3, 32, 32)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    torch.testing.assert_close(theirs(x), load_classifier(str(run / which)).model(x))
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_the_code_of_the_card_runs_in_a_fresh_python(run, tmp_path):
    export.export_student(run, tmp_path / "out")
    code = (tmp_path / "out/README.md").read_text().split("```python\n")[1].split("```")[0]
    code = code.replace("FOLDER", str(tmp_path / "out")) + "print(model.num_classes, transform is not None)"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.split() == ["10", "True"], done.stderr


def test_the_card_says_how_the_student_was_made(run, tmp_path):
    summary = json.loads((run / "summary.json").read_text())
    export.export_student(run, tmp_path / "last")
    card = (tmp_path / "last/README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\n")
    for fact in (
        f"| store identity | {summary['store']['identity']} |",
        "| store: generator | facebook/DiT-XL-2-256 |",
        "| store: steps | 100 |",
        "| store: guidance | 2.0 |",
        "| teacher `teacher` | t, sha256 ?, codec float16 |",
        "| training: temperature | 10.0 |",
        f"torch {torch.__version__.split('+')[0]}",
        f"Top-1 {summary['top1']:.2%}, top-5 {summary['top5']:.2%} on `{summary['evaluated_on']}`",
        "these images were not used to choose it",
        "cc-by-nc-4.0",
    ):
        assert fact in card, fact
    export.export_student(run, tmp_path / "best", which="best")
    card = (tmp_path / "best/README.md").read_text()
    assert f"student of epoch {summary['best']['epoch']}, **chosen by these very images**" in card


def test_what_can_not_be_exported_is_refused_and_nothing_is_left(run, tmp_path, monkeypatch):
    def refused(message, source=run, **options):
        with pytest.raises(UsageError, match=message):
            export.export_student(Path(source), tmp_path / "out", **options)
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.tmp"))

    refused("--which must be one of student, best", which="first")
    refused("was not written by `dmkd train-student`", tmp_path)
    (tmp_path / "half").mkdir()
    (tmp_path / "half/checkpoint.pt").touch()
    refused("is not finished", tmp_path / "half")
    (tmp_path / "unmeasured").mkdir()
    (tmp_path / "unmeasured/summary.json").write_text((run / "summary.json").read_text())
    refused(r"has no best: it was not measured .*--val", tmp_path / "unmeasured", which="best")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    refused(r"--onnx needs onnx and onnxscript, which are not installed: pip install 'dmkd\[onnx\]'", onnx=True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    with pytest.raises(UsageError, match="exists already"):
        export.export_student(run, tmp_path / "taken")


def test_an_onnx_model_says_what_the_student_says(run, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    done = CliRunner().invoke(main, ["export-student", str(run), "--to", str(tmp_path / "out"), "--onnx"])
    assert done.exit_code == 0, done.output
    assert "logits within" in done.stdout
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    x = torch.randn(5, 3, 8, 8)  # the views of this store are 8x8
    expected = load_classifier(str(run)).model(x)
    torch.testing.assert_close(
        torch.from_numpy(session.run(None, {"pixels": x.numpy()})[0]), expected, rtol=1e-3, atol=1e-3
    )
