"""How things look: progress, tables, notices. The only file that imports rich.

Progress and notices go to stderr, so that stdout holds results alone.
"""

import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dmkd.runtime.progress import Advance, Display, Rate

PLAIN_SECONDS = 10.0  # between two lines of progress in a log
SHORTEST_SECONDS = 0.5  # below this a rate means nothing
SHORTEST_BAR, LONGEST_BAR = 10, 30  # characters
KEPT_ON_ONE_LINE = 40  # characters of a table's cell: names, numbers; longer ones are sentences and may be wrapped
INDENT = 2
SHORTEST_LINE = 20
UNBOUNDED = 10_000


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
    """On a terminal: a bar with percent, count and time left; below it rates and what the work says of itself."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
        from rich.live import Live

        shown = TaskLines(description, Pace(total, done, unit))
        with Live(shown, console=self.console, refresh_per_second=10):
            yield shown.advance

    def notice(self, text: str) -> None:
        self.console.print(text, style="yellow", markup=False, highlight=False)


class TaskLines:
    """The lines of one task, as wide as the terminal: what is less needed is left out where it does not fit."""

    def __init__(self, description: str, pace: "Pace") -> None:
        self.description, self.pace = description, pace
        self.note = self.detail = ""

    def advance(self, count: int, note: str = "", detail: str | None = None) -> None:
        self.pace.advance(count)
        self.note = note or self.note
        self.detail = self.detail if detail is None else detail

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        pace, width = self.pace, options.max_width
        share = pace.done / pace.total if pace.total else 1.0
        room = width - len(self.description) - 2
        numbers = fitting([f"{share:.0%}", pace.eta()], room)
        numbers = fitting([numbers, f"{pace.done:,}/{pace.total:,} {pace.unit}"], room - SHORTEST_BAR - 2)
        bar = min(LONGEST_BAR, room - len(numbers) - 2)
        first = Table.grid(padding=(0, 2, 0, 0))
        first.add_row(
            Text(self.description, "bold", no_wrap=True, overflow="ellipsis"),
            *([ProgressBar(pace.total, pace.done, width=bar)] if bar >= SHORTEST_BAR else []),
            Text(numbers, no_wrap=True),
        )
        yield first
        below = fitting([self.note, pace.rates(), duration(pace.seconds)], width - 2)
        for line in filter(None, (below, self.detail)):
            yield Text(f"  {line}", "dim", no_wrap=True, overflow="ellipsis")


def fitting(parts: Sequence[str], width: int) -> str:
    """The parts that there are, two spaces apart: as many from the first on as fit, and the first in any case."""
    line = ""
    for part in filter(None, parts):
        if line and len(line) + 2 + len(part) > width:
            break
        line = f"{line}  {part}" if line else part
    return line


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
        if now == overall:
            return now
        number, unit = overall.split(" ", 1)
        return f"{now} ({number if now.endswith(unit) else overall} overall)"

    def summary(self) -> str:
        """``in 0:01:05  12.1 images/s``, of what was done here; nothing if that took no measurable time."""
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
    spare: Sequence[str] = (),
) -> None:
    """A table on stdout: the first column left, the others right. ``bold``: whether each row is; ``compact``: without lines,
    indented as facts are; ``spare``: columns to leave out, this one first, where the terminal is too narrow for all."""
    console = _stdout()
    room = console.width - (INDENT if compact else 0)

    def build(columns_shown: Sequence[int], narrow: bool = True, rigid: bool = True) -> Any:
        table = _plain_table() if compact else _titled_table(title)
        for number in columns_shown:
            cells = [str(row[number]) for row in rows]
            _add_column(table, columns[number], cells, left=number == 0, narrow=narrow, rigid=rigid)
        for i, row in enumerate(rows):
            cells = [str(row[number]) for number in columns_shown]
            table.add_row(*cells, style="bold" if bold and bold[i] else None)
        return table

    def fits(table: Any) -> bool:
        return console.measure(table, options=console.options.update(width=UNBOUNDED)).minimum <= room

    shown, left_out = list(range(len(columns))), []
    table = build(shown, narrow=False)
    if not fits(table):
        table = build(shown)
    for name in spare:
        if fits(table):
            break
        shown.remove(columns.index(name))
        left_out.append(name)
        table = build(shown)
    if not fits(table):
        table = build(shown, rigid=False)
    if compact:
        console.print(title, style="bold", markup=False, highlight=False)
    console.print(_indented(table) if compact else table)
    if left_out:
        print_sentence(f"Left out for lack of width: {', '.join(left_out)}.", "dim")


def _plain_table() -> Any:
    from rich.table import Table

    return Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)


def _titled_table(title: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)


def _add_column(table: Any, header: str, cells: Sequence[str], *, left: bool, narrow: bool, rigid: bool) -> None:
    """``narrow``: the header is broken between its words where it is wider than the cells; ``rigid``: cells that are not long are
    kept whole."""
    longest = max(map(len, cells), default=0)
    if narrow:
        header = textwrap.fill(header, max(longest, 1), break_long_words=False, break_on_hyphens=False)
    whole = rigid and longest <= KEPT_ON_ONE_LINE
    width = max([longest, *map(len, header.splitlines())]) if whole else None
    table.add_column(header, justify="left" if left else "right", overflow="fold", no_wrap=whole, min_width=width)


def print_facts(title: str, facts: Sequence[tuple[str, Any]]) -> None:
    """Names and values on stdout, aligned; on a terminal in lines that break between words."""
    console = _stdout()
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    width = max(len(name) for name, _ in facts)
    room = max(console.width - width - 2 * INDENT, SHORTEST_LINE)
    for name, value in facts:
        lines = [str(value)]
        if sys.stdout.isatty():
            lines = textwrap.wrap(str(value), room, break_long_words=False, break_on_hyphens=False) or [""]
        for word, line in zip([name, *[""] * (len(lines) - 1)], lines, strict=True):
            console.print(f"  {word:<{width}}  {line}", markup=False, highlight=False, soft_wrap=True)


def print_sentence(text: str, style: str = "") -> None:
    """A sentence on stdout, indented as facts are, on as many lines as it takes."""
    from rich.text import Text

    _stdout().print(_indented(Text(text, style)))


def _indented(what: Any) -> Any:
    from rich.padding import Padding

    return Padding(what, (0, 0, 0, INDENT), expand=False)


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
