"""Every dmkd command that the README and the manual show is one that the command line takes. Nothing is run."""

import re
import shlex
from pathlib import Path

import click
import pytest

from dmkd.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "cli/README.md", "benchmarks/README.md")]
TEXT = "\n".join(page.read_text() for page in PAGES)
SHELL = ("|", ">", ">>", "&&", ";")  # what ends a command's words


def code_lines(text):
    """(number, line) of what stands in blocks, indented by four spaces or fenced."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield number, line.strip()


def arguments(line):
    """What follows ``dmkd`` in a line of a shell, whoever is to start it there; None if nothing of dmkd is run."""
    if not re.search(r"(^|['\s])dmkd [a-z-]|dmkd\.cli\.main", line):
        return None
    words = shlex.split(line, comments=True)
    if "dmkd.cli.main" in words:  # python -m, torchrun
        words = words[words.index("dmkd.cli.main") :]
    elif words[:3] == ["ray", "job", "submit"]:
        words = words[words.index("--") + 1 :]
    elif words[:2] == ["ray", "exec"]:
        words = shlex.split(words[3])
    elif words[0] != "dmkd":
        return None
    end = next((words.index(sign) for sign in SHELL if sign in words), None)
    return words[1:end]


def parse(words):
    command = main.get_command(click.Context(main), words[0])
    assert command is not None, f"there is no command {words[0]}"
    return command.make_context(words[0], words[1:])


LINES = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, line in code_lines(page.read_text())
    if (words := arguments(line))
]


@pytest.mark.parametrize("words", LINES)
def test_commands_of_the_readme_parse(words, monkeypatch):
    monkeypatch.setattr("dmkd.cli.options.set_endpoint", lambda url: None)
    parse(words)


def test_no_command_is_overlooked():
    shown = [line for _, line in code_lines(TEXT) if re.search(r"\bdmkd (" + "|".join(COMMANDS) + r")\b", line)]
    assert len(LINES) == len(shown) + len(re.findall(r"(?m)^    .*dmkd\.cli\.main", TEXT)) > 60


@pytest.mark.parametrize("command", re.findall(r"`dmkd ([a-z-]+)", TEXT))
def test_commands_that_are_spoken_of_exist(command):
    assert command in COMMANDS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dmkd inspect s.zarr --everything    # all of it", "No such option"),
        ("dmkd convert a.zarr", "Missing parameter"),
        ("torchrun --nproc-per-node 8 -m dmkd.cli.main train-student --epoch many", "No such option"),
        ("ray job submit --address http://HEAD:8265 -- dmkd generate --stor s.zarr", "No such option"),
        ("ray exec cluster.yaml 'dmkd generate --worker 8'", "No such option"),
        ("dmkd export s.zarr --to x --format tar && ls x", "is not one of"),
    ],
)
def test_a_command_that_is_wrong_would_be_noticed(line, message):
    with pytest.raises(click.UsageError, match=message):
        parse(arguments(line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"(?m)^#+ (.*)$", file.read_text())
            assert heading in [re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings], target


def test_other_lines_are_no_commands():
    for line in ("pip install -e .", "setup_commands: ['pip install \"dmkd @ git+https://x/dmkd\"']", "import dmkd"):
        assert arguments(line) is None
