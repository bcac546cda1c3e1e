"""The page in a notebook: Jupyter, VS Code and whatever else shows widgets."""

from collections.abc import Sequence
from typing import Any

import anywidget
import traitlets

from dmkd.browsing.bundle import bundle, styles
from dmkd.browsing.desk import Desk


class Browser(anywidget.AnyWidget):
    """A view of some stores. What it asks is answered between two cells: while one runs, it waits."""

    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode().tag(sync=True)

    def __init__(self, desk: Desk) -> None:
        super().__init__(_esm=bundle("widget.js"), _css=styles())
        self._desk = desk
        self.on_msg(self._asked)

    def _asked(self, _: Any, content: Any, buffers: Sequence[Any]) -> None:
        answer = self._desk.answer(str(content.get("question")), content.get("asked") or {})
        self.send({"number": content.get("number"), "media_type": answer.media_type}, [answer.body])
