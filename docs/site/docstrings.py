"""Docstrings of the code as Markdown: its cross references become links where their target is on the site."""

import re
from typing import Any

import griffe

REFERENCE = re.compile(r":(?:class|func|meth|mod|data|attr):`(~?)([\w.]+)`")


class References(griffe.Extension):
    """``:class:`~dmkd.stores.Store` `` -> a link to it, or its name as code where the site does not describe it."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is None:
            return

        def mended(reference: re.Match[str]) -> str:
            short, path = reference.groups()
            shown = path.rpartition(".")[2] if short else path
            return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'

        obj.docstring.value = REFERENCE.sub(mended, obj.docstring.value)
