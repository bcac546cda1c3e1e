"""Makes the README's picture of a terminal, terminal.svg: commands are run for real, on digits, and rich draws what they show."""

import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS = 112
BEFORE = "dmkd generate --store digits.zarr --generator digits --images 300"
COMMANDS = (
    "dmkd label --store digits.zarr --teacher digits-vit",
    "dmkd train-student --store digits.zarr --labels digits-resnet --val digits --updates 240 --out first",
)
UP = "\x1b[1A\x1b[2K"  # progress is drawn again from some lines further up
REDRAWN = re.compile(rf"\r\x1b\[2K((?:{re.escape(UP)})*)")


def shown(command: str, folder: str) -> str:
    """What a command leaves on a terminal, with its colours."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    arguments = [sys.executable, "-m", "dmkd.cli.main", *command.split()[1:]]
    with subprocess.Popen(arguments, cwd=folder, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        while part := _read(ours):
            written += part
    assert process.returncode == 0, written.decode()
    first, *redrawn = REDRAWN.split(re.sub(r"\x1b\[\?25[lh]", "", written.decode()))
    lines = first.split("\r\n")
    for ups, text in zip(redrawn[::2], redrawn[1::2], strict=True):
        del lines[-1 - len(ups) // len(UP) :]
        lines += text.split("\r\n")
    return "\n".join(lines).strip("\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other end is closed
        return b""


if __name__ == "__main__":
    console = Console(record=True, width=COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        shown(BEFORE, folder)
        for command in COMMANDS:
            console.print(Text(f"$ {command}", style="bold green"))
            console.print(Text.from_ansi(shown(command, folder)))
            console.print()
    svg = console.export_svg(title="dmkd", theme=MONOKAI, unique_id="dmkd")
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)  # they would be fetched
    Path(__file__).with_suffix(".svg").write_text(svg)
