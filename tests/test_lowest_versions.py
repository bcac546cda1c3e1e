"""dmkd works with the oldest versions that setup.cfg allows; ``lowest-versions.txt`` says how they are resolved anew."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "tests/lowest-versions.txt"


def requirements() -> list[Requirement]:
    """All of setup.cfg, the extras' too, but for those that ``lowest-versions.txt`` says."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = {
        name: text for name, text in config["options.extras_require"].items() if name not in ("float8", "trackio")
    }
    texts = [config["options"]["install_requires"], *extras.values()]
    found = [Requirement(line) for text in texts for line in text.split("\n") if line]
    return [requirement for requirement in found if requirement.name != "dmkd"]


def pinned() -> dict[str, Version]:
    lines = [line.split("==") for line in PINS.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in lines}


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_a_lower_bound_is_the_version_that_is_tried(requirement):
    (bound,) = (part for part in requirement.specifier if part.operator != "<")
    assert bound.operator == ">="
    assert Version(bound.version) == pinned()[canonicalize_name(requirement.name)]


@pytest.mark.slow  # downloads some GB the first time; needs PyPI
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the versions are those for Python 3.11")
def test_every_command_works_with_the_lowest_versions(tmp_path):
    python = tmp_path / "env/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "uv"], check=True)
    subprocess.run([python, "-m", "uv", "pip", "install", "-q", "--python", python, "-r", PINS, ROOT], check=True)
    (tmp_path / "work").mkdir()
    subprocess.run([python, ROOT / "tests/every_command.py"], cwd=tmp_path / "work", check=True)
