"""Lay out what the site is built from: ``python docs/site/prepare.py build/docs``, as `make docs` does.

Pages are written to be read in the repository as well, so their links are the repository's. On the site a link to a file outside
docs/ leads to the page that the file has there, or to a copy of the file; and `dmkd NAME` in prose leads to the command's page.
"""

import re
import shutil
import sys
from os.path import dirname, join, normpath, relpath
from pathlib import Path

import commands
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"stores/FORMAT.md": "format.md", "benchmarks/README.md": "measurements.md"}  # in the repository -> on the site
INDEX = "commands.md"  # lists the commands
COPIES = "repository"  # the site's folder of other files from outside docs/

CODE = re.compile(r"(?ms)(^```.*?^```$|(?<=\n\n)(?: {4}[^\n]*\n)+|`[^`\n]*`)")
COMMAND = re.compile(r"`dmkd ([a-z-]+)(?: (--[a-z0-9-]+))?[^`]*`")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def write(pages: Path, page: str, content: str | bytes, source: str = "") -> None:
    """A page or a file of the site. ``source``: where its links start from, in the repository."""
    file = pages / page
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else on_the_site(content, source, page, pages).encode())


def on_the_site(markdown: str, source: str, page: str, pages: Path) -> str:
    """A page's Markdown as the site has it. What it links to outside docs/ is copied below ``pages``."""

    def link(found: re.Match[str]) -> str:
        target = normpath(join(dirname(source), found[1]))
        uri = PAGES.get(target, target.removeprefix("docs/"))
        if uri == target and (ROOT / target).is_file():
            uri = f"{COPIES}/{target}"
            write(pages, uri, (ROOT / target).read_bytes())
        return relpath(uri, dirname(page) or ".")

    def command(found: re.Match[str]) -> str:
        name, option = found.groups()
        if name not in commands.COMMANDS:
            return found[0]
        return f"[{found[0]}]({relpath(f'commands/{name}.md', dirname(page) or '.')}{f'#{option}' if option else ''})"

    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(link, prose) for prose in parts[::2]]
    linked = [after.startswith("](") for after in parts[2::2]]  # the text of a link already
    parts[1::2] = [
        code if there else COMMAND.sub(command, code) for code, there in zip(parts[1::2], linked, strict=True)
    ]
    return "".join(parts)


def prepare(build: Path) -> None:
    """Fill ``build``: the pages, the package that docstrings are read from, and the configuration."""
    shutil.rmtree(build, ignore_errors=True)
    pages = build / "pages"
    for file in sorted((ROOT / "docs").rglob("*")):
        page = str(file.relative_to(ROOT / "docs"))
        if file.suffix == ".md":
            text = file.read_text()
            write(pages, page, f"{text}\n{commands.listed()}" if page == INDEX else text, f"docs/{page}")
        elif file.suffix in (".png", ".svg"):
            write(pages, page, file.read_bytes())
    for source, page in PAGES.items():
        write(pages, page, (ROOT / source).read_text(), source)
    for name, text in commands.pages().items():
        write(pages, f"commands/{name}.md", text, f"docs/commands/{name}.md")

    # dmkd/, stores/ and cli/ as the one package that they are.
    package = build / "package/dmkd"
    package.mkdir(parents=True)
    for file in [*(ROOT / "dmkd").iterdir(), ROOT / "stores", ROOT / "cli"]:
        (package / file.name).symlink_to(file)
    shutil.copy(ROOT / "docs/site/docstrings.py", build)
    shutil.copy(ROOT / "docs/site/site.css", pages)

    site = ROOT / "docs/site/mkdocs.yml"
    nav = yaml.safe_load(site.read_text())["nav"]
    for entry in nav:
        entry.get("Commands", []).extend(f"commands/{name}.md" for name in commands.COMMANDS)
    configuration = {"INHERIT": str(site), "docs_dir": "pages", "site_dir": "../site", "nav": nav}
    (build / "mkdocs.yml").write_text(yaml.safe_dump(configuration))


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
