"""Names that users give to what they keep in a store: they are folders on every kind of disk."""

from .errors import UsageError


def check_name(name: str, what: str) -> None:
    """Raise ``UsageError`` unless ``name`` can be that of a ``what``, such as a label set."""
    if not name or not all(c.isalnum() or c in "._-" for c in name) or name.startswith((".", "_")):
        raise UsageError(f"{name!r} is not a valid {what} name: use letters, digits, '.', '_' and '-'.")
