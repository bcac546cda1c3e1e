"""Functions of the user's own, by ``package.module:function``: of the current folder, as for ``python -m``, or installed."""

import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from typing import Any

from dmkd.runtime.failures import named_line
from dmkd.runtime.spelling import nearest_names
from dmkd.stores.errors import UsageError

_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_folders: list[str] = []  # looked through besides the current one


def look_in(folder: str) -> None:
    """Find functions in this folder too: a worker's current folder may be another than that of the process that gives it work."""
    if folder not in _folders:
        _folders.append(folder)


def is_own_code(text: str) -> bool:
    """Whether a text has the form ``package.module:function``."""
    return _FORM.fullmatch(text) is not None


def check_module(text: str) -> None:
    """Raise ``UsageError`` if the outermost package of ``package.module:function`` is not there. Imports nothing."""
    _make_importable()
    package = text.partition(":")[0].partition(".")[0]
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        raise _no_module(text, package, [module.name for module in pkgutil.iter_modules(_here())])


def own_function(text: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names. Raises ``UsageError`` in one sentence if it is not there, or if
    importing its module fails."""
    check_module(text)
    name, _, function = text.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(
            f"{error.name}."
        ):  # something that the module itself imports
            raise _failed(text, name, error) from error
        parent = sys.modules[error.name.rpartition(".")[0]]
        inside = [
            module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", []), f"{parent.__name__}.")
        ]
        raise _no_module(text, error.name, inside) from None
    except Exception as error:
        raise _failed(text, name, error) from error
    found = getattr(module, function, None)
    if not callable(found):
        what = "no function" if found is None else "something that is no function"
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{text}: {module.__name__} has {what} called {function!r}{nearest_names(function, known)}")
    return found


def _here() -> list[str]:
    return [os.getcwd(), *_folders]


def _make_importable() -> None:
    for folder in reversed(_here()):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    importlib.invalidate_caches()


def _no_module(text: str, name: str, known: list[str]) -> UsageError:
    where = f"in the current folder ({os.getcwd()}) or among what is installed"
    return UsageError(f"{text}: there is no module {name!r} {where}{nearest_names(name, known)}")


def _failed(text: str, name: str, error: Exception) -> UsageError:
    return UsageError(f"{text}: importing {name} failed: {named_line(error)}.")
