"""A packed array in a bucket: few requests, large ones."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from ..errors import StoreError, StoreUnreachableError
from . import shards
from .packed import Listing, PackedArray, ShapeOfArray
from .place import Place

LISTED_SECONDS = 5.0  # for which a reader relies on a listing
SPAN_BYTES = 2**20  # neighbouring small chunks are requested together, up to this much
KEPT_BYTES = 128 * 2**20  # of these, in memory


class RemotePacked(PackedArray):
    """A packed array in a bucket. Reading relies on a listing of the last seconds, on indices, and on neighbours of small chunks
    that came with them: what another process changes is read a few seconds later."""

    def __init__(self, place: Place, node: str, shape: ShapeOfArray, kept: "KeptSpans") -> None:
        super().__init__(place, node, shape)
        self._kept = kept
        self._listed: tuple[float, Listing] | None = None
        self._indices: dict[tuple[int, int], np.ndarray] = {}  # of (shard, its size)
        self._spans: dict[tuple[int, int], np.ndarray] = {}  # what is read together with each block
        self._lock = threading.Lock()

    def read(self, block: int) -> bytes | None:
        listing = self._recent()
        if block in listing.deleted:
            return None
        if block in listing.loose:
            return self.place.read_bytes(self.loose_key(block))
        shard, place = divmod(block, self.shape.blocks_per_shard)
        if (size := listing.shards.get(shard)) is None:
            return self.place.read_bytes(self.loose_key(block))  # made since
        try:
            return self._chunk(shard, size, place) or self.place.read_bytes(self.loose_key(block))
        except StoreError:  # such as for a range that is not there
            if self._list().shards.get(shard) == size:
                raise
        self.forget()  # another process has replaced the shard since
        return self.read(block)

    def _chunk(self, shard: int, size: int, place: int) -> bytes | None:
        """Out of a shard of this size; None if it is not there."""
        start, length = self._index(shard, size)[place].tolist()
        if start == shards.ABSENT:
            return None
        first, stop = self._spans[shard, size][place].tolist()
        content = self._kept.get((self.shard_key(shard), size, first), lambda: self._range(shard, first, stop - first))
        return content[start - first : start - first + length]

    def forget(self) -> None:
        with self._lock:
            self._listed = None
            self._indices.clear()
        self._kept.drop(self.node)

    def _list(self) -> Listing:
        listing = super()._list()
        self._listed = time.monotonic(), listing
        return listing

    def _recent(self) -> Listing:
        with self._lock:
            listed = self._listed
            recent = listed is not None and time.monotonic() - listed[0] < LISTED_SECONDS
            return listed[1] if listed is not None and recent else self._list()

    def _index(self, shard: int, size: int) -> np.ndarray:
        index = self._indices.get((shard, size))
        if index is None:
            length = shards.index_bytes(self.shape.blocks_per_shard)
            start = max(0, size - length)
            content = self._kept.get(
                (self.shard_key(shard), size, start), lambda: self._range(shard, start, size - start)
            )
            index = shards.parse_index(content, self.shape.blocks_per_shard, size)
            self._spans[shard, size] = shards.spans(index, SPAN_BYTES)
            self._indices[shard, size] = index
        return index

    def _range(self, shard: int, start: int, length: int) -> bytes:
        content: bytes | None = b""
        for _ in range(3):
            content = self.place.read_bytes(self.shard_key(shard), start, start + length)
            if content is None:
                raise ValueError("the shard is gone")
            if len(content) == length:
                return content
        came = len(content or b"")
        raise StoreUnreachableError(
            f"{self.place.path}/{self.shard_key(shard)} could not be read: {length:,} bytes were asked for and {came:,} came; "
            "rerun the same command to resume."
        )


class KeptSpans:
    """The parts of shards that were read last, up to a number of bytes. Each is fetched once, whoever asks for it meanwhile."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._spans: OrderedDict[tuple[str, int, int], Future[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int, int], fetch: Callable[[], bytes]) -> bytes:
        with self._lock:
            future = self._spans.get(key)
            if fetching := future is None:
                future = self._spans[key] = Future()
            self._spans.move_to_end(key)
        if fetching:
            try:
                content = fetch()
            except BaseException as error:
                with self._lock:
                    self._spans.pop(key, None)
                future.set_exception(error)
                raise
            future.set_result(content)
            self._keep(key, content)
        return future.result()

    def drop(self, node: str) -> None:
        """Forget what is kept of an array."""
        with self._lock:
            for key in [key for key, future in self._spans.items() if key[0].startswith(f"{node}/") and future.done()]:
                self._bytes -= len(self._spans.pop(key).result())

    def _keep(self, key: tuple[str, int, int], content: bytes) -> None:
        with self._lock:
            if len(content) > SPAN_BYTES:  # one large chunk, which nobody asks for twice
                self._spans.pop(key, None)
                return
            self._bytes += len(content)
            for old, future in list(self._spans.items()):
                if self._bytes <= self._max_bytes:
                    return
                if old != key and future.done():
                    self._bytes -= len(self._spans.pop(old).result())
