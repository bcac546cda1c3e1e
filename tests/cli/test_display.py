"""Lines of progress in a log and on a terminal, and tables that fit: what they say, and what they leave out."""

import io
import re

import pytest
from rich.console import Console

import dmkd.cli.display as display
from dmkd.cli.display import Pace, PlainDisplay, TaskLines, rate


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(display, "time", clock)
    return clock


def told(capsys):
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("total", "done", "line"),
    [(3, 3, "compare: all 3 runs are done already"), (0, 0, "compare: nothing to do")],
)
def test_nothing_to_do_is_one_line_without_a_rate(clock, capsys, total, done, line):
    with PlainDisplay().task("compare", total, done, unit="runs"):
        clock.now += 5
    assert told(capsys) == [line]


def test_what_took_no_time_has_no_rate(clock, capsys):
    with PlainDisplay().task("list", 2, unit="tars") as advance:
        clock.now += 0.01
        advance(2)
    assert told(capsys) == ["list: 2 of 2 tars to do", "list: 2/2 tars"]


def test_what_was_stopped_before_anything_was_done_has_no_rate(clock, capsys):
    with PlainDisplay().task("generate", 32):
        clock.now += 5
    assert told(capsys) == ["generate: 32 of 32 images to do", "generate: 0/32 images"]


def test_the_rate_is_of_what_was_done_here(clock, capsys):
    with PlainDisplay().task("generate", 100, 40) as advance:
        for _ in range(3):
            clock.now += 20
            advance(20)
    lines = told(capsys)
    assert lines[0] == "generate: 60 of 100 images to do"
    assert lines[1] == "generate: 60/100 images  60%  1.0 images/s  ETA 0:00:40"
    assert lines[-1] == "generate: 100/100 images in 0:01:00  1.0 images/s"


def test_a_note_without_progress_tells_no_rate(clock, capsys):
    with PlainDisplay().task("compare", 2, unit="runs") as advance:
        clock.now += 20
        advance(0, "epoch 1/9")
        assert told(capsys)[1] == "compare: 0/2 runs  0%  epoch 1/9"
        clock.now += 20
        advance(1)
        assert told(capsys) == ["compare: 1/2 runs  50%  1.5 runs/min  ETA 0:00:40  epoch 1/9"]


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(1234.5, "1,234.5 runs/s"), (0.95, "0.9 runs/s"), (0.5, "30.0 runs/min"), (1 / 7200, "0.5 runs/h"),
     (1 / 600, "6.0 runs/h")],
)  # fmt: skip
def test_slow_work_is_counted_by_the_minute_or_the_hour(per_second, text):
    assert rate(per_second, "runs") == text


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of a given width: what was printed, line by line."""

    def make(width):
        console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False)
        monkeypatch.setattr(display, "_stdout", lambda: console)
        monkeypatch.setattr(display.sys.stdout, "isatty", lambda: True, raising=False)
        return console

    return make


def lines_of(console):
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


COLUMNS = ("label set", "teacher", "a view", "agrees")
ROWS = [("digits-resnet", "test_resnet.digits", "20 B", "86.67 %"), ("b", "resnet18.tv_in1k", "2.0 kB", "5.00 %")]


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("width", [40, 46, 50, 54, 60, 80, 120])
def test_a_table_keeps_names_whole_and_leaves_out_what_matters_least(terminal, width, compact):
    console = terminal(width)
    display.print_table("Labels", COLUMNS, ROWS, compact=compact, spare=("a view", "agrees"))
    text = "\n".join(lines_of(console))
    assert all(len(line) <= width for line in text.splitlines())
    for name in ("digits-resnet", "test_resnet.digits", "resnet18.tv_in1k"):
        assert name in text
    left_out = re.sub(r"\s+", " ", text).partition("Left out for lack of width: ")[2]
    for cell, column in (("2.0 kB", "a view"), ("86.67 %", "agrees")):
        assert (cell in text) != (column in left_out)
    assert width < 60 or not left_out
    assert width >= 46 or "agrees" in left_out
    assert "agrees" not in left_out or "a view" in left_out


def test_a_column_needs_no_header(terminal):
    console = terminal(40)
    display.print_table("Top-1", ["", "model"], [["teacher", "digits-resnet"]])
    assert "  teacher   digits-resnet" in lines_of(console)


def test_facts_break_between_words(terminal):
    console = terminal(40)
    display.print_facts("s.zarr", [("made by", "digits, ddim 3 steps, guidance 2 on 4 channels")])
    assert lines_of(console) == ["s.zarr", "  made by  digits, ddim 3 steps,", "           guidance 2 on 4 channels"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_progress_shows_percent_and_time_left_at_any_width(clock, width):
    shown = TaskLines("train wrn_16_2", Pace(720_000, 0, "images"))
    for _ in range(3):
        clock.now += 20
        shown.advance(60_000, "epoch 3/240  loss 1.2345  top-1 71.43 %", "host-a 100 %, host-b 98 %")
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(shown)
    first, second, third = lines_of(console)
    assert first.startswith("train wrn_16_2  ") and "25%  ETA 0:03:00" in first
    assert ("━" in first) == (width >= 60) and ("180,000/720,000 images" in first) == (width >= 80)
    assert second.startswith("  epoch 3/240  loss 1.2345") and third == "  host-a 100 %, host-b 98 %"
    assert ("3,000.0 images/s  0:01:00" in second) == (width >= 80)
    assert all(len(line) <= width for line in (first, second, third))
