"""A function of each item, computed by threads a bounded number of items ahead of whoever reads the results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_order(
    make: Callable[[Item], Made], items: Iterable[Item], threads: int, depth: int
) -> Generator[Made, None, None]:
    """``make(item)`` of each item, in the items' order. What ``make`` raises is raised here, in its place.

    Up to ``depth`` results are there or being made, besides the one that is in use; ``depth`` 0: no threads. However the reading
    ends, at the last item, by ``break`` or by an exception, no thread is left when the generator is closed.
    """
    if not depth:
        yield from map(make, items)
        return
    left = iter(items)
    under_way: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(min(threads, depth), "dmkd-loader") as executor:
        try:
            under_way.extend(executor.submit(make, item) for item in islice(left, depth))
            while under_way:
                made = under_way.popleft().result()
                under_way.extend(executor.submit(make, item) for item in islice(left, 1))
                yield made
                del made  # not kept while the next is waited for
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
