"""How things look: progress, tables, notices. The only file that imports rich.

Progress and notices go to stderr, so that stdout holds results alone.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dmkd.runtime.progress import Advance, Display, Rate

PLAIN_SECONDS = 10.0  # between two lines of progress in a log
SHORTEST_SECONDS = 0.5  # what took less is over at once: its rate would tell nothing


def make_display(quiet: bool = False) -> Display:
    """Bars on a terminal, lines in a log."""
    if quiet:
        return PlainDisplay(every=float("inf"))
    return RichDisplay() if sys.stderr.isatty() else PlainDisplay()


class PlainDisplay:
    """A line when work begins, when it ends, and every ten seconds between; one line if there is nothing to do."""

    def __init__(self, every: float = PLAIN_SECONDS) -> None:
        self.every = every

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
        pace, last, latest = Pace(total, done, unit), time.monotonic(), ("", "")
        to_do = (
            f"{total - done:,} of {total:,} {unit} to do" if done < total else f"all {total:,} {unit} are done already"
        )
        self._print(f"{description}: {to_do if total else 'nothing to do'}")

        def advance(count: int, note: str = "", detail: str | None = None) -> None:
            nonlocal last, latest
            pace.advance(count)
            latest = (note or latest[0], latest[1] if detail is None else detail)
            if time.monotonic() - last >= self.every and pace.done < total:
                last = time.monotonic()
                parts = [
                    f"{pace.done:,}/{total:,} {unit}",
                    f"{pace.done / total:.0%}",
                    pace.rates(),
                    pace.eta(),
                    *latest,
                ]
                self._print(f"{description}: {'  '.join(filter(None, parts))}")

        yield advance
        if done < total:
            parts = [f"{pace.done:,}/{total:,} {unit}", pace.summary()]
            self._print(f"{description}: {' '.join(filter(None, parts))}")

    def notice(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        if self.every != float("inf"):
            print(text, file=sys.stderr, flush=True)


class RichDisplay:
    """A bar with rates and time left, and below it a line of details where there are any."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
        from rich.console import Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.text import Text

        pace = Pace(total, done, unit)
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            TextColumn("[dim]{task.fields[note]}"),
        )
        progress = Progress(*columns, console=self.console)
        task = progress.add_task(description, total=total, completed=done, rates="", eta="", note="")
        below = Text("", style="dim", no_wrap=True, overflow="ellipsis")
        with Live(Group(progress, below), console=self.console, refresh_per_second=10):

            def advance(count: int, note: str = "", detail: str | None = None) -> None:
                pace.advance(count)
                progress.update(task, completed=pace.done, rates=pace.rates(), eta=pace.eta(), note=note)
                if detail is not None:
                    below.plain = f"  {detail}" if detail else ""

            yield advance

    def notice(self, text: str) -> None:
        self.console.print(text, style="yellow", markup=False, highlight=False)


class Pace:
    """How fast a task goes: now, overall, and how long it will take at the present rate."""

    def __init__(self, total: int, done: int, unit: str) -> None:
        self.total, self.unit = total, unit
        self.done = self._done_before = done
        self._start = time.monotonic()
        self._now = Rate(self._start)

    def advance(self, count: int) -> None:
        self.done += count
        if count:
            self._now.add(count, time.monotonic())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    @property
    def overall(self) -> float:
        return (self.done - self._done_before) / max(self.seconds, 1e-9)

    def rates(self) -> str:
        """``12.1 images/s``, and the overall rate where it is another; nothing before anything is done."""
        if self.done == self._done_before or not self._now.per_second:
            return ""
        now, overall = (rate(value, self.unit) for value in (self._now.per_second, self.overall))
        return now if now == overall else f"{now} ({overall} overall)"

    def summary(self) -> str:
        """``in 0:01:05  12.1 images/s``, of what was done here; nothing if that took no time that can be told."""
        if self.done == self._done_before or self.seconds < SHORTEST_SECONDS:
            return ""
        return f"in {duration(self.seconds)}  {rate(self.overall, self.unit)}"

    def eta(self) -> str:
        now = self._now.per_second
        return f"ETA {duration((self.total - self.done) / now)}" if now and self.done < self.total else ""


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    bold: Sequence[bool] | None = None,
    compact: bool = False,
) -> None:
    """A table on stdout: the first column left, the others right. ``bold``: whether each row is; ``compact``: without lines,
    indented as facts are."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if compact:
        _stdout().print(title, style="bold", markup=False, highlight=False)
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    else:
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*(str(cell) for cell in row), style="bold" if bold and bold[number] else None)
    _stdout().print(_indented(table) if compact else table)


def print_facts(title: str, facts: Sequence[tuple[str, Any]]) -> None:
    """Names and values on stdout, aligned."""
    console = _stdout()
    console.print(title, style="bold", markup=False, highlight=False)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        console.print(f"  {name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


def print_sentence(text: str, style: str = "") -> None:
    """A sentence on stdout, indented as facts are, on as many lines as it takes."""
    from rich.text import Text

    _stdout().print(_indented(Text(text, style)))


def _indented(what: Any) -> Any:
    from rich.padding import Padding

    return Padding(what, (0, 0, 0, 2), expand=False)


def _stdout() -> Any:
    """A console as wide as the terminal; wide enough for every table if stdout is a file or a pipe."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)


def duration(seconds: float) -> str:
    """``0:01:05``, or ``?`` if nobody can know."""
    if seconds != seconds or seconds == float("inf"):
        return "?"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def rate(per_second: float, unit: str) -> str:
    """``12.1 images/s``; per minute or per hour where that many a second would be next to nothing."""
    for per, seconds in (("s", 1), ("min", 60)):
        if per_second * seconds >= 0.95:
            return f"{per_second * seconds:,.1f} {unit}/{per}"
    return f"{3600 * per_second:,.1f} {unit}/h"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
