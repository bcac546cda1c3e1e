"""Run notebooks from top to bottom in this Python, and save their output and plots in their files.

    python notebooks/execute.py [NOTEBOOK ...]

Default: all those next to this file. Each runs in a temporary folder with a copy of the tables (.csv) beside it. Pictures are
kept as PNG in 256 colours, a third as large; times and names of this machine are not kept. A notebook that fails is left
unchanged. Needs ``pip install 'dmkd[dev]'``.
"""

import base64
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
TIMEOUT = 300  # seconds a cell


def execute(path: Path, folder: Path) -> Any:
    """The notebook, run in ``folder`` by this Python, as nbformat gives it. Raises nbclient's error if a cell does."""
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient

    for table in path.parent.glob("*.csv"):
        shutil.copy(table, folder)
    # A kernel of our own: what is registered as python3 on a machine may be another Python.
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.joinpath("kernel.json").write_text(json.dumps({"argv": command, "display_name": "x", "language": "python"}))
    specs = KernelSpecManager(kernel_dirs=[str(folder / "kernels")], ensure_native_kernel=False)
    client = NotebookClient(
        nbformat.read(path, 4), timeout=TIMEOUT, record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    client.km = client.create_kernel_manager()
    client.km.kernel_spec_manager = specs
    path_of_modules = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return client.execute(env={**os.environ, "PYTHONPATH": path_of_modules})


def make_small(notebook: Any) -> None:
    """Drop what differs between machines, and make pictures small."""
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop("image/jpeg", None)  # the same picture again
            if "image/png" in data:
                data["image/png"] = in_256_colours(data["image/png"])


def in_256_colours(png: str) -> str:
    """A picture (base64), in the 256 colours that suit it. Rare colours are kept: a thin mark may be what a legend speaks of."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    file = io.BytesIO()
    few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    few.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    import nbformat

    for path in [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        make_small(notebook)
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
