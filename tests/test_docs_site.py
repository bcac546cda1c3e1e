"""The site of docs/: it is built without a warning, loads nothing from elsewhere, and has every option of every command."""

import html
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from dmkd.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocs", reason="needs mkdocs-material (pip install 'dmkd[docs]')")


def prepare(folder):
    subprocess.run([sys.executable, ROOT / "docs/site/prepare.py", folder], check=True)


def build(folder):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(folder / "mkdocs.yml")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    prepare(folder / "build")
    done = build(folder / "build")
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|source|use)\b[^>]*>", page.read_text()):
            assert not re.search(r"""(?:src|href|srcset)=["']?(?:https?:)?//""", tag), (page.name, tag)
    for file in [*site.rglob("*.css"), *site.rglob("*.svg")]:
        assert not re.search(r"""url\(["']?(?:https?:)?//|@import""", file.read_text()), file.name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_page_with_its_help_and_an_address_for_each_option(site, name):
    page = (site / f"commands/{name}.html").read_text()
    command = main.get_command(click.Context(main), name)
    text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", page)))
    for option in command.params:
        if isinstance(option, click.Option):
            assert f'id="{max(option.opts, key=len)}"' in page
            usage, words = option.get_help_record(click.Context(command))
            assert usage in text and re.sub(r"\s+", " ", words.replace("`", "")) in text
    assert "Examples" not in command.help or f"dmkd {name}" in text.partition("Examples")[2]


def test_a_command_that_is_spoken_of_is_a_link_to_its_page(site):
    page = (site / "troubleshooting.html").read_text()
    assert '<a href="commands/verify.html#--repair"><code>dmkd verify --repair</code></a>' in page


def test_pages_and_files_from_outside_the_docs_are_on_the_site(site):
    assert "<h1" in (site / "format.html").read_text() and (site / "repository/stores/layout.py").exists()


def test_all_commands_are_listed_with_what_they_do(site):
    listed = re.findall(
        r'<li><a href="commands/([a-z-]+).html"><code>dmkd \1</code></a>: \w', (site / "commands.html").read_text()
    )
    assert listed == list(COMMANDS)


def test_docstrings_are_on_the_page_of_python(site):
    page = (site / "python.html").read_text()
    assert 'id="dmkd.loading.api.loader"' in page and 'href="#dmkd.loading.mixture.Mixture"' in page
    assert ":class:" not in page and ":func:" not in page and ":meth:" not in page


@pytest.mark.parametrize("link", ["[a](nowhere.md)", "[a](how-it-works.md#nothing)", "`x` ![a](none.png)"])
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path, link):
    prepare(tmp_path / "build")
    page = tmp_path / "build/pages/index.md"
    page.write_text(f"{page.read_text()}\n{link}\n")
    done = build(tmp_path / "build")
    assert done.returncode != 0 and re.findall(r"\((.*)\)", link)[0].partition("#")[2] in done.stderr
