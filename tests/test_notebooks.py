"""The notebooks run from top to bottom, in this Python, and what is committed of their output is small."""

import base64
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MAX_BYTES = 300_000
PROMISES = {
    "01_inspect_a_store": ["complete"],
    "02_views_and_labels": ["pixels that differ: 0,"],
    "03_fidelity_and_teachers": ["the same class for the same id: True", "48 conditions, 240 students"],
}


def execute_script():
    """``notebooks/execute.py``, which no package holds."""
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "path",
    [NOTEBOOKS[0], *(pytest.param(path, marks=pytest.mark.slow) for path in NOTEBOOKS[1:])],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs(path, tmp_path):
    pytest.importorskip("nbclient", reason="needs nbclient (pip install 'dmkd[dev]')")
    pytest.importorskip("ipykernel")
    done = execute_script().execute(path, tmp_path)
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    for promise in PROMISES[path.stem]:
        assert promise in printed
    assert "Warning" not in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_whole_small_and_of_no_machine(path):
    text = path.read_text()
    assert len(text) < MAX_BYTES
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "Warning" not in text and "site-packages" not in text and str(Path(__file__).parent.parent) not in text


def test_256_colours_keep_a_thin_mark_among_many_greys():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 250, (400, 400, 1)) + rng.integers(0, 6, (400, 400, 3))  # thousands of greys, nearly
    pixels[10:22, 5:8] = 26, 127, 55
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    small = base64.b64decode(execute_script().in_256_colours(base64.b64encode(file.getvalue()).decode()))
    assert len(small) < len(file.getvalue()) / 2
    shown = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).astype(int)
    assert np.abs(shown - pixels).max() <= 16
