"""An iterator that runs in a thread of its own, a bounded number of items ahead of whoever reads it."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """The same items, up to ``depth`` of them made in advance. What the iterator raises is raised here.

    However the reading ends, at the last item, by ``break`` or by an exception, the thread has ended and ``items`` is
    closed when the generator is. ``depth`` 0: no thread.
    """
    if not depth:
        yield from items
        return
    made: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(depth)
    stopping = threading.Event()

    def put(kind: str, item: Item | BaseException | None = None) -> bool:
        while not stopping.is_set():
            try:
                made.put((kind, item), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    break
                del item  # not kept while the next one is being made
        except BaseException as error:
            put("error", error)
        finally:
            close = getattr(items, "close", None)
            if close:
                close()
            put("end")

    thread = threading.Thread(target=work, name="dmkd-loader", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = made.get()
            if kind == "end":
                return
            if isinstance(item, BaseException):
                raise item
            yield item  # type: ignore[misc]
            del item
    finally:
        stopping.set()
        thread.join()
