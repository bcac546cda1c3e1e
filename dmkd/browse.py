"""Looking through stores: a page in the browser, or the same as a widget in a notebook."""

from collections.abc import Callable, Sequence
from typing import Any

from dmkd.browsing.desk import Desk
from dmkd.stores import UsageError


def browse(
    paths: Sequence[str],
    *,
    runs: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int | None = None,
    started: Callable[[str], None] = print,
) -> None:
    """Serve a page that shows stores, until interrupted. ``started`` gets its address, which holds a secret: whoever has it can
    see the stores and save selections in them. ``runs``: folders of training runs that it follows too, beside those in
    ``students`` here and beside the stores.

    Raises what opening a store raises, and ``UsageError`` if the page's packages are missing or ``port`` is taken."""
    try:
        from dmkd.browsing.server import serve
    except ImportError as error:
        raise UsageError(f"dmkd browse needs {error.name}: pip install 'dmkd[browse]'.") from error
    serve(Desk(paths, runs), host, port, started)


def widget(paths: Sequence[str]) -> Any:
    """The same page as a widget for a notebook, an ``anywidget.AnyWidget``: it shows when it ends a cell.

    Raises what opening a store raises, and ``UsageError`` if anywidget is missing."""
    try:
        from dmkd.browsing.widget import Browser
    except ImportError as error:
        raise UsageError(f"store.browse() needs {error.name}: pip install 'dmkd[browse]'.") from error
    desk = Desk(paths)
    desk.follow()
    return Browser(desk)
