"""What a store holds besides its images: view sets and label sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import layout
from .chunks import Chunks, Ids
from .codecs import Codec, Coder, codec_from_json
from .errors import DamagedChunkError, StoreError, UsageError
from .opinions import Opinions, opinion_table, read_opinions
from .rows import ClassRows, QualityRows, Rows, ViewRows, proved, proved_encoded


class ViewSet:
    """A named set of V views an image: float32 (N, V, P), components named by ``components``."""

    def __init__(self, chunks: Chunks, name: str, attributes: dict[str, Any]) -> None:
        """``attributes``: those of its node."""
        self.name = name
        self.node = f"{layout.VIEWS}/{name}"
        self.rows = ViewRows(chunks, self.node)
        self.attributes = attributes
        self.components: tuple[str, ...] = tuple(self.attributes["components"])
        self.identity: str = self.attributes["identity"]
        self._chunks = chunks

    @property
    def num_views(self) -> int:
        return self.rows.shape[1]

    @property
    def padding(self) -> int:
        """Pixels by which boxes may leave their image, into black."""
        policy = self.attributes.get("policy")
        return policy.get("padding", 0) if isinstance(policy, dict) else 0

    def __getitem__(self, ids: Ids) -> np.ndarray:
        """View parameters, float32 (n, V, P)."""
        return self.rows[ids]

    def has_block(self, block: int) -> bool:
        """Whether the views of a block have been written."""
        return self._chunks.has(self.node, block)

    def missing_blocks(self) -> list[int]:
        """Blocks whose views have not been written, ascending."""
        return self._chunks.missing(self.node)


class LabelSet:
    """One teacher's logits on one view set, in one codec."""

    def __init__(self, chunks: Chunks, name: str, attributes: dict[str, Any]) -> None:
        """``attributes``: those of its node."""
        self.name = name
        self.node = f"{layout.LABELS}/{name}"
        self.attributes = attributes
        self.teacher: dict[str, Any] = self.attributes["teacher"]
        self.source: str = self.attributes["source"]
        self.view_set: str = self.attributes["view_set"]
        self.num_classes: int = self.attributes["num_classes"]
        self.precision: str = self.teacher.get("precision", layout.DEFAULT_PRECISION)  # of the teacher's forward pass
        # Of the teacher's outputs, those that the store's classes are, in order; None: all.
        self.outputs: list[int] | None = self.teacher.get("outputs")
        self.identity: str = self.attributes["identity"]
        self.num_views: int = self.attributes["num_views"]
        # The view that the quality is of: box, size and interpolation. None: the canonical one of the view set.
        self.quality_view: dict[str, Any] | None = self.attributes.get("quality_view")
        self.codec: Codec = codec_from_json(self.attributes["codec"])
        self._chunks = chunks
        self._coder: Coder | None = None

    @property
    def fitted(self) -> bool:
        """Whether the codec's constants are there, and with them the arrays for the blocks."""
        return bool(self.attributes.get("fitted"))

    @property
    def coder(self) -> Coder:
        """The codec with this label set's constants: what encodes and decodes. Raises ``StoreError`` before the fit."""
        if self._coder is None:
            if not self.fitted:
                raise StoreError(f"Label set {self.name!r} of {self._chunks.path} was begun but has no labels yet.")
            nodes = {name: f"{self.node}/{layout.CONSTANTS}/{name}" for name in self.codec.constants}
            try:
                constants = {name: self._chunks.tree.read_constant(node) for name, node in nodes.items()}
            except (ValueError, RuntimeError) as error:
                raise DamagedChunkError(
                    f"The constants of label set {self.name!r} of {self._chunks.path} are damaged ({error}): run "
                    "`dmkd verify --repair`, then `dmkd label`."
                ) from error
            self._coder = self.codec.bind(self.num_classes, constants)
        return self._coder

    @property
    def array_nodes(self) -> dict[str, str]:
        """The codec's arrays: name -> node."""
        return {name: f"{self.node}/{name}" for name in self.coder.arrays(self.num_views)}

    @property
    def checks_node(self) -> str:
        """The array that binds quality and labels to the images and views that they were made from."""
        return f"{self.node}/{layout.CHECKS}"

    @property
    def views_node(self) -> str:
        return f"{layout.VIEWS}/{self.view_set}"

    @property
    def marker(self) -> str:
        """The array whose chunk says that a block is labelled: the last one written."""
        return list(self.array_nodes.values())[-1]

    @property
    def quality(self) -> Rows:
        """float32 (N, 3): the teacher's top-1 class, p(class id) and entropy (nats) at the view that
        ``quality_view`` says."""
        return QualityRows(self._chunks, f"{self.node}/{layout.QUALITY}", self.identity)

    def quality_table(self, ids: Ids | None = None) -> Any:
        """The teacher's opinion as a table, one row an image: ``image`` int64, ``class_id`` int32, ``top1`` int32, ``p_class``
        float32, ``entropy`` float32 (nats), ``agrees`` bool.

        A pandas DataFrame with index ``image`` if pandas is installed, else a numpy structured array. ``ids`` None: all images
        that are there and labelled. Raises ``DamagedChunkError`` for what can't be read.
        """
        if ids is None:
            opinions = self.opinions(self.labelled_blocks())
            if opinions.damaged:
                raise DamagedChunkError(opinions.damaged[0])
            return opinion_table(opinions.ids, opinions.class_ids, opinions.quality)
        wanted = self._chunks.resolve_ids(ids)
        return opinion_table(wanted, ClassRows(self._chunks, layout.CLASS_IDS)[wanted], self.quality[wanted])

    def opinions(self, blocks: Sequence[int]) -> Opinions:
        """The quality of all images of some :meth:`labelled_blocks`, fast. Damaged blocks are named and left out."""
        return read_opinions(self._chunks, self.node, self.identity, blocks)

    def encoded(self, ids: Ids) -> dict[str, np.ndarray]:
        """The codec's arrays at these ids, axis 0 being the id. Raises ``DamagedChunkError`` if they were not made from the
        images and views that are there now."""
        if isinstance(ids, int | np.integer):
            return {name: rows[0] for name, rows in self.encoded([int(ids)]).items()}
        wanted = self._chunks.resolve_ids(ids)
        nodes = self.array_nodes

        def read() -> dict[str, np.ndarray]:
            return self._proved(wanted, {name: self._chunks.read(node, wanted) for name, node in nodes.items()})

        return proved(self._chunks, wanted, read)

    def prove(self, ids: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        """Raise ``DamagedChunkError`` unless the codec's arrays, (n, ...) straight from the files, belong to ids int64
        (n,)."""
        proved(self._chunks, ids, lambda: self._proved(ids, arrays))

    def _proved(self, ids: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return proved_encoded(
            self._chunks, self.identity, ids, arrays, self.array_nodes, self.checks_node, self.views_node
        )

    def logits(self, ids: Ids, view: int | None = None, temperature: float = 1.0) -> np.ndarray:
        """Decoded logits, float32 (n, V, C), or (n, C) of one view, for softmax(logits / temperature). One id drops
        the first axis. Only a codec that drops classes looks at the temperature."""
        if isinstance(ids, int | np.integer):
            return self.logits([int(ids)], view, temperature)[0]
        logits = self.coder.decode(self.encoded(ids), temperature)
        return logits if view is None else logits[:, view]

    def softmax(self, ids: Ids, view: int | None = None, temperature: float = 1.0) -> np.ndarray:
        """The teacher's probabilities softmax(logits / temperature), float32 (n, V, C), or (n, C) of one view; one id drops
        the first axis. Raises ``UsageError`` for a temperature that is not above 0."""
        if not temperature > 0:
            raise UsageError(f"The temperature must be above 0, not {temperature:g}.")
        scaled = self.logits(ids, view, temperature).astype(np.float64) / temperature
        exponential = np.exp(scaled - scaled.max(-1, keepdims=True))
        return (exponential / exponential.sum(-1, keepdims=True)).astype(np.float32)

    def missing_blocks(self) -> list[int]:
        """Blocks that have no labels yet, ascending."""
        return self._chunks.missing(self.marker) if self.fitted else list(range(self._chunks.num_blocks))

    def has_block(self, block: int) -> bool:
        """Whether a block has labels."""
        return self.fitted and self._chunks.has(self.marker, block)

    def labelled_blocks(self) -> list[int]:
        """Blocks that have both images and labels, ascending."""
        absent = {*self._chunks.missing(layout.IMAGES), *self.missing_blocks()}
        return [block for block in range(self._chunks.num_blocks) if block not in absent]


def read_view_sets(chunks: Chunks) -> dict[str, ViewSet]:
    """All view sets of a store by name, sorted; each one's attributes are read once."""
    return {name: ViewSet(chunks, name, found) for name, found in _read_attributes(chunks, layout.VIEWS).items()}


def read_label_sets(chunks: Chunks) -> dict[str, LabelSet]:
    """As :func:`read_view_sets`. A label set whose creation was interrupted is left out."""
    found = _read_attributes(chunks, layout.LABELS)
    return {name: LabelSet(chunks, name, its) for name, its in found.items() if "identity" in its}


def _read_attributes(chunks: Chunks, group: str) -> dict[str, dict[str, Any]]:
    """Name -> attributes of what is directly below a group."""
    names = chunks.tree.children(group)
    return dict(zip(names, chunks.tree.map(lambda name: chunks.tree.attributes(f"{group}/{name}"), names), strict=True))
