"""Making many blocks: hand out what is missing, retry what failed, go on until nothing is left.

One process without Ray here; ``dmkd.ray_engine`` does the same on Ray actors. Both run :class:`dmkd.blocks.BlockWorker`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dmkd.blocks import BlockWorker, WorkOrder
from dmkd.stores import DmkdError, StoreWriteError, UsageError

MAX_ATTEMPTS = 3
BACK_OFF_SECONDS = 1.0


@dataclass
class BlockDone:
    """What is told of each block that was finished."""

    block: int
    images: int
    seconds: float


@dataclass
class Failures:
    """How often each block failed, and why the last time. A block that failed three times is set aside."""

    attempts: dict[int, int] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)

    def note(self, block: int, error: BaseException) -> bool:
        """Count a failure. True: try the block again; False: set it aside."""
        self.attempts[block] = self.attempts.get(block, 0) + 1
        self.reasons[block] = f"{type(error).__name__}: {error}".splitlines()[0]
        return self.attempts[block] < MAX_ATTEMPTS

    @property
    def set_aside(self) -> dict[int, str]:
        return {block: self.reasons[block] for block, count in self.attempts.items() if count >= MAX_ATTEMPTS}

    def raise_if_any(self, store_path: str) -> None:
        """Raise ``DmkdError`` naming the blocks that were set aside and the first reason."""
        if self.set_aside:
            block, reason = next(iter(self.set_aside.items()))
            raise DmkdError(
                f"{len(self.set_aside)} blocks of {store_path} failed {MAX_ATTEMPTS} times and were left out, block "
                f"{block} because of {reason}. The others are done; run the same command again to retry these."
            )


def run_here(order: WorkOrder, blocks: Sequence[int], report: Callable[[BlockDone], None]) -> None:
    """Make blocks in this process, one after the other.

    A full disk or a wrong request ends the run at once; anything else is tried three times, with a pause that doubles.
    """
    worker = BlockWorker(order)
    failures = Failures()
    queue = list(blocks)
    while queue:
        block = queue.pop(0)
        start = time.perf_counter()
        try:
            images = worker.run(block)
        except (UsageError, StoreWriteError):
            raise
        except Exception as error:
            if failures.note(block, error):
                time.sleep(BACK_OFF_SECONDS * 2 ** (failures.attempts[block] - 1))
                queue.append(block)
            continue
        report(BlockDone(block, images, time.perf_counter() - start))
    failures.raise_if_any(order.store_path)
