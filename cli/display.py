"""How things look: progress, tables, notices. The only file that imports rich.

Progress and notices go to stderr, so that stdout holds results alone.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dmkd.progress import Display

PLAIN_SECONDS = 10.0  # between two lines of progress in a log


def make_display(quiet: bool = False) -> Display:
    """Bars on a terminal, lines in a log."""
    if quiet:
        return PlainDisplay(every=float("inf"))
    return RichDisplay() if sys.stderr.isatty() else PlainDisplay()


class PlainDisplay:
    """A line when work begins, when it ends, and every ten seconds between."""

    def __init__(self, every: float = PLAIN_SECONDS) -> None:
        self.every = every

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Callable[..., None]]:
        start = last = time.monotonic()
        now_done = done
        self._print(f"{description}: {total - done:,} of {total:,} {unit} to do")

        def advance(count: int, note: str = "") -> None:
            nonlocal now_done, last
            now_done += count
            if time.monotonic() - last >= self.every and now_done < total:
                last = time.monotonic()
                rate = (now_done - done) / (last - start)
                eta = (total - now_done) / rate if rate else float("inf")
                self._print(
                    f"{description}: {now_done:,}/{total:,} {unit}  {now_done / total:.0%}  {rate:,.1f} {unit}/s  "
                    f"ETA {duration(eta)}{'  ' + note if note else ''}"
                )

        yield advance
        seconds = time.monotonic() - start
        rate = (now_done - done) / seconds if seconds else 0
        self._print(f"{description}: {now_done:,}/{total:,} {unit} in {duration(seconds)}  {rate:,.1f} {unit}/s")

    def notice(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        if self.every != float("inf"):
            print(text, file=sys.stderr, flush=True)


class RichDisplay:
    """A bar with rate and time left."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Callable[..., None]]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        start, now_done = time.monotonic(), done
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(description, total=total, completed=done, rate="", eta="", note="")

            def advance(count: int, note: str = "") -> None:
                nonlocal now_done
                now_done += count
                rate = (now_done - done) / max(time.monotonic() - start, 1e-9)
                eta = f"ETA {duration((total - now_done) / rate)}" if rate and now_done < total else ""
                progress.update(task, completed=now_done, rate=f"{rate:,.1f} {unit}/s", eta=eta, note=note)

            yield advance

    def notice(self, text: str) -> None:
        self.console.print(text, style="yellow", markup=False, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout: the first column left, the others right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    _stdout().print(table)


def print_facts(title: str, facts: Sequence[tuple[str, Any]]) -> None:
    """Names and values on stdout, aligned."""
    console = _stdout()
    console.print(title, style="bold", markup=False, highlight=False)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        console.print(f"  {name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


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


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def byte_size(count: float) -> str:
    """``12.6 MB``, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError
