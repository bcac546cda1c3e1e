"""Whether what a store's nodes say of themselves is what the format's JSON Schema says: of all stores in a folder."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from dmkd.stores import StoreError, layout
from dmkd.stores.run_log import RUNS
from dmkd.stores.trees.tree import open_tree, stores_in

DEEPEST = 3  # folders below the one that is looked into


def schema() -> dict[str, Any]:
    return json.loads((files("dmkd.stores") / "schema/format-1.json").read_text())


@cache
def validator(kind: str):
    """Of one definition; what it does not name is refused: whoever adds an attribute says in the schema what it is."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": _closed(schema()["$defs"])})


def _closed(part: Any) -> Any:
    if isinstance(part, list):
        return [_closed(one) for one in part]
    if not isinstance(part, dict):
        return part
    closed = {key: _closed(value) for key, value in part.items()}
    return (
        {"additionalProperties": False, **closed} if "properties" in part and part.get("type") == "object" else closed
    )


def problems_below(folder: Path, depth: int = 0) -> Iterator[str]:
    """What is wrong with the stores in a folder and below it, a line each. What can't be read was damaged on purpose."""
    stores = stores_in(folder)
    for store in stores:
        try:
            found = list(problems_of(str(store)))
        except (StoreError, KeyError, ValueError, OSError):
            continue
        yield from found
    if depth < DEEPEST:
        for below in folder.iterdir():
            if below not in stores and below.is_dir() and not below.is_symlink():
                yield from problems_below(below, depth + 1)


def problems_of(path: str) -> Iterator[str]:
    """What is wrong with the attributes of a store's nodes."""
    tree = open_tree(path)
    root = tree.attributes()
    if root.get("state") != "ready" or layout.stored_format(root) != layout.FORMAT_VERSION:
        return
    yield from _problems(path, "root", root)
    # Of groups without attributes the making was interrupted.
    for group, kind in (
        (layout.VIEWS, "view_set"),
        (layout.LABELS, "label_set"),
        (layout.COLUMNS, "column"),
        (layout.ROUNDS, "round"),
        (layout.TAGS, "tag"),
    ):
        for name in tree.children(group):
            if attributes := tree.attributes(f"{group}/{name}"):
                yield from _problems(f"{path}/{group}/{name}", kind, attributes)
    children = tree.children("")
    for group, kind in ((layout.SELECTIONS, "selections"), (layout.CARD, "card")):
        if group in children and (attributes := tree.attributes(group)):
            yield from _problems(f"{path}/{group}", kind, attributes)
    for run in tree.children(RUNS):
        node = f"{RUNS}/{run}"
        if attributes := tree.attributes(node):
            yield from _problems(f"{path}/{node}", "run", attributes)
        for part in tree.children(node):
            yield from _problems(f"{path}/{node}/{part}", "run_part", tree.attributes(f"{node}/{part}"))


def _problems(where: str, kind: str, attributes: dict[str, Any]) -> Iterator[str]:
    for error in validator(kind).iter_errors(attributes):
        place = "/".join(map(str, error.absolute_path)) or "its attributes"
        yield f"{where}: {place}: {error.message[:300]}"
