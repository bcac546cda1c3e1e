"""Lines of progress in a log: what they say, and that they say nothing where there is nothing to say."""

import pytest

import dmkd.cli.display as display
from dmkd.cli.display import PlainDisplay, rate


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
