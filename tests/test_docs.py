"""What README and docs show is so: commands parse, Python compiles and names what there is, links lead somewhere, and the blocks
that are marked with ``<!-- run -->`` run, page by page, on digits."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from dmkd.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks/README.md"]
TEXT = "\n".join(page.read_text() for page in PAGES)
SHELL = ("|", ">", ">>", "&&", ";")  # what ends a command's words
RUN = re.compile(r"(?s)<!-- run -->\n\n((?: {4}[^\n]*\n)+|```python\n.*?```)")
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
PROSE = re.sub(r"(?ms)^```.*?^```$|^ {4}.*?$", "", "\n".join(page.read_text() for page in PAGES[:-1]))

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


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


def command_called(name):
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"there is no command {name}"
    return command


def parse(words):
    return command_called(words[0]).make_context(words[0], words[1:])


LINES = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, line in code_lines(page.read_text())
    if (words := arguments(line))
]


@pytest.mark.parametrize("words", LINES)
def test_commands_that_are_shown_parse(words, monkeypatch, tmp_path):
    monkeypatch.setattr("dmkd.cli.options.set_endpoint", lambda url: None)
    if "--config" in words:  # the file that the page shows
        (shown,) = re.findall(r"(?ms)^```toml\n(.*?)^```$", TEXT)
        monkeypatch.chdir(tmp_path)
        (tmp_path / words[words.index("--config") + 1]).write_text(shown)
    parse(words)


def test_no_command_is_overlooked():
    shown = [line for _, line in code_lines(TEXT) if re.search(r"\bdmkd (" + "|".join(COMMANDS) + r")\b", line)]
    assert len(LINES) == len(shown) + len(re.findall(r"(?m)^    .*dmkd\.cli\.main", TEXT)) > 60


@pytest.mark.parametrize(("name", "rest"), sorted(set(re.findall(r"`dmkd ([a-z-]+)([^`\n]*)`", PROSE))))
def test_commands_that_are_spoken_of_exist_with_their_options(name, rest):
    known = {option for parameter in command_called(name).params for option in parameter.opts}
    assert set(re.findall(r"(?<= )--[a-z0-9-]+", rest)) <= known


def test_options_that_are_spoken_of_are_those_of_some_command():
    parameters = [parameter for name in COMMANDS for parameter in command_called(name).params]
    known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    spoken_of = set(re.findall(r"`(--[a-z0-9-]+)", PROSE))
    assert len(spoken_of) > 60 and spoken_of - known == {"--help"}


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


def test_other_lines_are_no_commands():
    for line in ("pip install -e .", "setup_commands: ['pip install \"dmkd @ git+https://x/dmkd\"']", "import dmkd"):
        assert arguments(line) is None


@every_page
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"(?m)^#+ (.*)$", file.read_text())
            assert heading in [re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings], target


def resolve(path):
    """What ``dmkd.a.b.c`` names. Raises if there is no such thing."""
    found, parts = importlib.import_module("dmkd"), path.split(".")[1:]
    for number, part in enumerate(parts, 1):
        if not hasattr(found, part):
            importlib.import_module(".".join(["dmkd", *parts[:number]]))
        found = getattr(found, part)
    return found


def names_in(code):
    """Every ``dmkd.…`` that a piece of Python imports, or speaks of in full."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dmkd"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("dmkd."):
            yield ast.unparse(node)


@every_page
def test_python_that_is_shown_compiles_and_names_what_there_is(page):
    for code in PYTHON.findall(page.read_text()):
        for name in names_in(code):
            resolve(name)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"(?:`|::: )(dmkd(?:\.[A-Za-z_]\w*)+)(?!/)", PROSE))))
def test_names_that_are_spoken_of_exist(name):
    if not name.endswith(".zarr") and name != "dmkd.teachers":  # a group of entry points
        resolve(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a store that is called as in the pages, of a few digits."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("generate --store imnet.zarr --generator digits --images 48 --steps 2 --teacher none --block-size 16")
        run("label --store imnet.zarr --teacher digits-resnet --name resnet34.tv_in1k --views rrc:8")
    return folder


def run(command):
    assert not main(shlex.split(command, comments=True), prog_name="dmkd", standalone_mode=False), command


RUNNING = [page for page in PAGES if RUN.search(page.read_text())]


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_that_are_marked_run(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DMKD_STORE", raising=False)
    variables = {}
    for block in RUN.findall(page.read_text()):
        if block.startswith("```"):
            exec(block.removeprefix("```python\n").removesuffix("```"), variables)
        else:
            for line in block.splitlines():
                if line.strip():
                    run(line.strip().removeprefix("dmkd "))


def test_the_start_is_run():
    assert {page.name for page in RUNNING} >= {"README.md", "index.md", "own-loop.md"}
    assert all(len(RUN.findall(page.read_text())) == page.read_text().count("<!-- run -->") for page in RUNNING)
