"""What an engine reports while it works: to the display, and to the run log in the store."""

import time
from typing import Any

from dmkd.engine.scheduler import MAX_ATTEMPTS, Failure
from dmkd.engine.stages import BlockDone
from dmkd.runtime.progress import Advance, Display, Rate
from dmkd.stores import RunLog
from dmkd.stores.packing import Folding

WORKERS_SHOWN = 8  # one by one; of more only their number, the slowest and the fastest


class Monitor:
    """Progress of one work order. ``advance`` is that of a display's task; ``folding`` hears of blocks too."""

    def __init__(self, display: Display, advance: Advance, log: RunLog, folding: Folding) -> None:
        self._display, self._advance, self._log, self._folding = display, advance, log, folding
        self._rates: dict[int, Rate] = {}  # of the workers that are there
        self._names: dict[int, str] = {}
        self._failures = 0
        self._starting = 0

    def starting(self, count: int) -> None:
        """``count`` workers load their models, or wait for a GPU."""
        if count != self._starting:
            self._starting = count
            self._advance(0, detail=self.detail())

    def worker_ready(self, worker: int, facts: dict[str, Any]) -> None:
        self._rates[worker] = Rate(time.monotonic())
        self._names[worker] = self._log.add_worker(facts)

    def worker_gone(self, worker: int, reason: str) -> None:
        """A worker died, or could not start."""
        self._log.add_failure(reason, block=None, worker=self._names.get(worker))
        if self._rates.pop(worker, None) is None:
            self._display.notice(f"A worker could not start: {reason}.")
        else:
            self._display.notice(f"Worker {self._names.pop(worker)} is gone: {reason}. Its blocks are made elsewhere.")

    def block_done(self, worker: int, block: int, done: BlockDone) -> None:
        self._rates[worker].add(done.count, time.monotonic())
        self._log.add_block(block, self._names[worker], done.seconds_made, done.seconds_written)
        self._advance(done.count, detail=self.detail())
        self._folding.block_done()

    def made_elsewhere(self, blocks: int, count: int) -> None:
        """Another process has made this many blocks, of ``count`` ids."""
        self._log.plan(-blocks)
        self._advance(count, detail=self.detail())

    def block_failed(self, worker: int, failure: Failure) -> None:
        self._failures += 1
        end = "; it is left out." if failure.set_aside else "."
        name = self._names.get(worker, f"w{worker}")
        self._log.add_failure(failure.reason, block=failure.block, worker=name, left_out=failure.set_aside)
        self._display.notice(
            f"Block {failure.block} failed on {name} ({failure.reason}), attempt {failure.attempt} of {MAX_ATTEMPTS}{end}"
        )
        self._advance(0, detail=self.detail())

    def notice(self, text: str) -> None:
        self._display.notice(text)

    def detail(self) -> str:
        """``1 failure · w0 12.1/s w1 11.8/s · 1 starting``; nothing where one worker does well."""
        rates = {self._names[worker]: rate.per_second for worker, rate in self._rates.items()}
        parts = []
        if self._failures:
            parts.append(f"{self._failures} failure{'s' if self._failures > 1 else ''}")
        if len(rates) > WORKERS_SHOWN:
            slowest, fastest = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
            parts.append(
                f"{len(rates)} workers, {slowest} {rates[slowest]:,.1f}/s to {fastest} {rates[fastest]:,.1f}/s"
            )
        elif len(rates) > 1 or self._starting:
            parts.append(" ".join(f"{name} {rate:,.1f}/s" for name, rate in rates.items()))
        if self._starting:
            parts.append(f"{self._starting} starting or waiting for a place")
        return " · ".join(filter(None, parts))
