"""How the package is laid out: which way imports run, and that it works however it is installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "torchvision", "diffusers", "timm", "ray", "zarr", "rich"}


def imported(file: Path, top_level_only: bool = False) -> set[str]:
    """Modules that a source file imports, absolute names."""
    tree = ast.parse(file.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return names


@pytest.mark.parametrize("file", sorted((ROOT / "stores").rglob("*.py")), ids=lambda f: f.name)
def test_stores_know_neither_torch_nor_the_rest_of_dmkd(file):
    assert not {name for name in imported(file) if name.split(".")[0] in {"torch", "ray", "timm", "diffusers", "dmkd"}}


@pytest.mark.parametrize("file", sorted((ROOT / "dmkd").rglob("*.py")), ids=lambda f: f.name)
def test_dmkd_does_not_know_the_command_line(file):
    assert not {name for name in imported(file) if name.startswith(("dmkd.cli", "click", "rich"))}


@pytest.mark.parametrize("file", sorted((ROOT / "cli").rglob("*.py")), ids=lambda f: f.name)
def test_commands_import_nothing_heavy_at_the_top(file):
    assert not {name for name in imported(file, top_level_only=True) if name.split(".")[0] in HEAVY}


def test_importing_dmkd_is_instant():
    code = f"import sys, dmkd; print({HEAVY!r} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_wheel_is_one_package_and_puts_nothing_else_into_site_packages(tmp_path):
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(tmp_path / "site"), str(ROOT)], check=True, capture_output=True)
    installed = {path.name for path in (tmp_path / "site").iterdir()} - {"bin"}
    assert {name for name in installed if not name.endswith(".dist-info")} == {"dmkd"}
    code = "import dmkd.stores.codecs, dmkd.cli.main, dmkd.digits; print(dmkd.__file__); print(dmkd.digits.PIPELINE.exists())"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    lines = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path, env=environment).splitlines()
    assert lines == [str(tmp_path / "site/dmkd/__init__.py"), "True"]
    stores = tmp_path / "site/dmkd/stores"
    assert {path.name for path in stores.glob("schema/*")} == {"format-1.json", "vectors-1.json"}
    assert (stores / "FORMAT.md").exists()
    # From the repository's root Python finds the folder dmkd/ first; its siblings must be found too.
    code = "import dmkd.stores, dmkd.cli.main; print(dmkd.stores.__file__)"
    found = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT, env=environment).strip()
    assert found == str(ROOT / "stores/__init__.py")
