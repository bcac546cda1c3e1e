"""Options in a file, TOML or JSON, by their names."""

import json
import tomllib
from pathlib import Path
from typing import Any

from dmkd.stores.errors import UsageError


def read_option_file(path: str, what: str) -> dict[str, Any]:
    """What a file sets: name -> value, as TOML or JSON has it. ``what`` it is called in errors, as in ``The recipe``. Raises
    ``UsageError`` for a file that can't be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"{what} {path} can't be read: {reason}.") from error
    try:
        return json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} {path} is neither TOML nor JSON: {str(error).rstrip('.')}.") from error
