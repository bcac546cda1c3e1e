"""Every message that the page on troubleshooting quotes is still one of the code's."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
QUOTED = re.findall(r"(?m)^### `(.*)`$", PAGE)


def text_of(node):
    """A string of the source with … for each value that is put in; None for what is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


@pytest.fixture(scope="module")
def texts():
    files = [file for folder in ("stores", "dmkd", "cli") for file in (ROOT / folder).rglob("*.py")]
    return [text for file in files for node in ast.walk(ast.parse(file.read_text())) if (text := text_of(node))]


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_one_of_the_codes(message, texts):
    assert any(message in text for text in texts)


def test_no_message_is_overlooked():
    assert len(QUOTED) == PAGE.count("\n### ") > 30
