"""The page's modules as one, for notebooks: a widget's front end is a single file."""

import re
from pathlib import Path

PAGE = Path(__file__).parent / "page"
STYLES = ("style.css", "live.css")

_IMPORT = re.compile(r'^import \{([^}]*)\} from "(\./[\w./-]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:function|const|class) (\w+)", re.MULTILINE)
_EXPORT_LIST = re.compile(r"export ?\{([^}]*)\};?\s*$")


def bundle(entry: str) -> str:
    """The module ``entry`` of the page, with all that it imports, as one module that exports what it exports by default.

    Each module becomes a function that returns its exports. Raises ``ValueError`` for a form of import or export that the
    page's modules do not use."""
    order: list[str] = []
    _add(entry, order, ())
    parts = ["const modules = {};", *(_as_function(name) for name in order), f'export default modules["{entry}"];']
    return "\n".join(parts)


def styles() -> str:
    return "\n".join((PAGE / name).read_text(encoding="utf-8") for name in STYLES)


def _add(name: str, order: list[str], above: tuple[str, ...]) -> None:
    if name in order:
        return
    if name in above:
        raise ValueError(f"{' → '.join((*above, name))} is a circle of imports, which a bundle has no order for")
    for match in _IMPORT.finditer((PAGE / name).read_text(encoding="utf-8")):
        _add(match[2].removeprefix("./"), order, (*above, name))
    order.append(name)


def _as_function(name: str) -> str:
    code = (PAGE / name).read_text(encoding="utf-8")

    def taken(match: re.Match[str]) -> str:
        names = re.sub(r"(\w+) as (\w+)", r"\1: \2", match[1])
        return f'const {{{names}}} = modules["{match[2].removeprefix("./")}"];\n'

    code = _IMPORT.sub(taken, code)
    exports = [(one, one) for one in _EXPORT.findall(code)]
    code = _EXPORT.sub(lambda match: match[0].removeprefix("export "), code)
    if listed := _EXPORT_LIST.search(code):
        pairs = (pair.split(" as ") for pair in listed[1].split(","))
        exports += [(names[-1].strip(), names[0].strip()) for names in pairs]
        code = code[: listed.start()]
    if left := re.search(r"^(import|export)\b.*", code, re.MULTILINE):
        raise ValueError(f"{name}: `{left[0][:80]}` is not an import or export that a bundle can take")
    returned = ", ".join(f"{outside}: {inside}" for outside, inside in exports)
    return f'modules["{name}"] = (() => {{\n{code}\nreturn {{ {returned} }};\n}})();'
