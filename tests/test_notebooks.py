"""The notebooks run from top to bottom, in this Python, and what is committed of their output is small."""

import json
import os
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
MAX_BYTES = 300_000


def execute(path, folder):
    """The notebook, run in ``folder`` by this Python, as nbformat gives it."""
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient

    # A kernel of our own: what is registered as python3 on a machine may be another Python.
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.joinpath("kernel.json").write_text(json.dumps({"argv": command, "display_name": "x", "language": "python"}))
    specs = KernelSpecManager(kernel_dirs=[str(folder / "kernels")], ensure_native_kernel=False)
    client = NotebookClient(nbformat.read(path, 4), timeout=300, resources={"metadata": {"path": str(folder)}})
    client.km = client.create_kernel_manager()
    client.km.kernel_spec_manager = specs
    checkout = str(Path(__file__).parent.parent)
    path_of_modules = os.pathsep.join([checkout, *filter(None, [os.environ.get("PYTHONPATH")])])
    return client.execute(env={**os.environ, "PYTHONPATH": path_of_modules})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    pytest.importorskip("nbclient", reason="needs nbclient (pip install 'dmkd[dev]')")
    pytest.importorskip("ipykernel")
    done = execute(path, tmp_path)
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    for promise in {"02_views_and_labels": ["pixels that differ: 0,"], "01_inspect_a_store": ["complete"]}[path.stem]:
        assert promise in printed


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
    assert "site-packages" not in text and str(Path(__file__).parent.parent) not in text
