"""Identity of a recipe, a view set or a label set: what decides whether two runs belong to the same data."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from .errors import MismatchError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def fingerprint(description: Mapping[str, Any]) -> str:
    """sha256, as 64 hex digits, of a JSON-able description; the order of its keys does not matter."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_fingerprint(identity: str, description: Mapping[str, Any]) -> bool:
    """Whether this is the fingerprint of a description; False if it holds NaN or something that JSON can't."""
    try:
        return identity == fingerprint(description)
    except (TypeError, ValueError):
        return False


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Fields in which two descriptions differ, nested ones with dots: ``[(field, stored value, asked value)]``."""
    found = []
    for key in sorted(stored.keys() | asked.keys()):
        a, b = stored.get(key), asked.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((prefix + key, a, b))
    return found


def refuse_mismatch(
    what: str, stored: Mapping[str, Any], asked: Mapping[str, Any], way_out: str, holder: str = "the store"
) -> None:
    """Raise ``MismatchError`` naming every field that differs, both values, and the way out; return if none does. ``holder``:
    what has the stored values, in the sentence."""
    found = differences(stored, asked)
    if found:
        fields = "; ".join(f"{field}: {holder} has {_show(a)}, you asked for {_show(b)}" for field, a, b in found)
        raise MismatchError(f"{what} differs from what was asked for ({fields}). {way_out}")


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value)
    if _SHA256.fullmatch(text):
        return text[:12] + "…"
    return text if len(text) <= 80 else text[:60] + "…" + text[-12:]
