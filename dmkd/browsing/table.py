"""What is known of every image of a store, in memory: its class, teachers' opinions, columns. Follows a store that grows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event, RLock, Thread

import numpy as np

from dmkd.browsing.sources import Key, Source, sources_of
from dmkd.recipes.selection import columns_of
from dmkd.stores import DmkdError, Store, open_store
from dmkd.stores.errors import first_line
from dmkd.stores.locations import scheme

BLOCKS_AT_ONCE = 256  # read between two moments in which the table can be asked
SECONDS, SECONDS_IN_BUCKET = 2.0, 20.0  # between two looks at the store


@dataclass
class _Part:
    """The rows of one source, and of which blocks they are."""

    identity: str
    rows: np.ndarray
    blocks: set[int] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)  # a sentence for each block that could not be read

    def resized(self, source: Source, num_images: int, unsure: int) -> "_Part":
        """For another number of images. ``unsure``: the block that may be a whole one now."""
        rows = source.room(num_images)
        rows[: len(self.rows)] = self.rows[:num_images]
        return _Part(self.identity, rows, self.blocks - {unsure}, self.damaged)


class Table:
    """The numbers of a store's N images. Threads share it: whoever reads several arrays that must fit together holds ``lock``.

    ``version`` grows with each change.
    """

    def __init__(self, path: str) -> None:
        """Raises what :func:`dmkd.stores.open_store` raises. Nothing is read before :meth:`update` or :meth:`follow`."""
        self.store: Store = open_store(path)
        self.lock = RLock()
        self.version = 0
        self.blocks_made = 0
        self.blocks_to_read = 0  # that the store has, counted once for each array that is not here yet
        self.problem: str | None = None  # why the store could not be read the last time
        self._parts: dict[Key, _Part] = {}
        self._asked, self._looked = Event(), -np.inf
        self._judged: tuple[tuple[int, str | None], dict[str, np.ndarray]] | None = None
        self._make_room(sources_of(self.store))

    @property
    def class_ids(self) -> np.ndarray:
        """int32 (N,): -1 of images that are not there."""
        return self._parts["class", ""].rows

    @property
    def quality(self) -> dict[str, np.ndarray]:
        """Label set -> float32 (N, 3) as :attr:`dmkd.stores.LabelSet.quality`, NaN of images without labels."""
        return {name: part.rows for (kind, name), part in self._parts.items() if kind == "labels"}

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Name -> float64 (N,), NaN where there is no number."""
        return {name: part.rows for (kind, name), part in self._parts.items() if kind == "column"}

    @property
    def damaged(self) -> list[str]:
        """A sentence for each block that could not be read."""
        return [sentence for part in self._parts.values() for sentence in part.damaged]

    @property
    def is_read(self) -> bool:
        """Whether all that was there at the last look is here."""
        return self._looked > -np.inf and self.blocks_to_read == 0

    def judged(self, judge: str | None) -> dict[str, np.ndarray]:
        """All that a selection may speak of, by the teacher of the label set ``judge``: (N,) each, see
        :func:`dmkd.recipes.selection.columns_of`. Kept until the table changes."""
        key = (self.version, judge)
        if self._judged is None or self._judged[0] != key:
            quality = None if judge is None else self.quality[judge]
            self._judged = key, columns_of(quality, self.class_ids, np.arange(len(self.class_ids)))
        return self._judged[1] | self.columns

    def follow(self) -> None:
        """Read what there is, and then what comes, in a thread that ends with the process. It looks again only when
        :meth:`look_again` asks for it: a page that nobody has open costs nothing."""
        Thread(target=self._follow, daemon=True, name=f"follow {self.store.path}").start()

    def look_again(self) -> None:
        """Ask for a look at the store, unless the last one was a moment ago."""
        if time.monotonic() - self._looked > (SECONDS_IN_BUCKET if scheme(self.store.path) else SECONDS):
            self._asked.set()

    def _follow(self) -> None:
        while True:
            try:
                self.update()
                self.problem = None
            except DmkdError as error:
                self.problem = str(error)
            except Exception as error:  # the disk's, a library's, or the process ends: nobody else hears of it
                self.problem = f"{self.store.path} can't be read: {first_line(error)}."
            self._looked = time.monotonic()
            self._asked.clear()
            self._asked.wait()

    def update(self) -> None:
        """Read what has come to the store since the last time."""
        store = open_store(self.store.path)
        sources = sources_of(store)
        missing = set(store.missing_blocks())
        there = [block for block in range(store.num_blocks) if block not in missing]
        with self.lock:
            self._change_to(store, sources)
            todo = {key: self._new_blocks(key, source, there) for key, source in sources.items()}
            self.blocks_made, self.blocks_to_read = len(there), sum(map(len, todo.values()))
        for key, blocks in todo.items():
            for start in range(0, len(blocks), BLOCKS_AT_ONCE):
                some = blocks[start : start + BLOCKS_AT_ONCE]
                ids, rows, damaged = sources[key].read(some)
                with self.lock:
                    part = self._parts[key]
                    part.rows[ids] = rows
                    part.blocks.update(some)
                    part.damaged += damaged
                    self.blocks_to_read -= len(some)
                    self.version += 1

    def _new_blocks(self, key: Key, source: Source, there: Sequence[int]) -> list[int]:
        absent = self._parts[key].blocks.union(source.missing_blocks())
        return [block for block in there if block not in absent]

    def _change_to(self, store: Store, sources: dict[Key, Source]) -> None:
        """Follow the store's own changes: more images, other label sets or columns, other attributes."""
        now = {key: source.identity for key, source in sources.items()}
        before = {key: part.identity for key, part in self._parts.items()}
        if (now, store.num_images, store.attributes) == (before, self.store.num_images, self.store.attributes):
            return
        self.store = store
        self._make_room(sources)
        self.version += 1

    def _make_room(self, sources: dict[Key, Source]) -> None:
        old, self._parts = self._parts, {}
        num_images = self.store.num_images
        for key, source in sources.items():
            part = old.get(key)
            if part is None or part.identity != source.identity:
                part = _Part(source.identity, source.room(num_images))
            elif len(part.rows) != num_images:
                part = part.resized(source, num_images, len(part.rows) // self.store.block_size)
            self._parts[key] = part
