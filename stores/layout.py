"""The store format, on one page. FORMAT.md is the specification, from which a reader can be written in any language.

A store is one tree of arrays. Axis 0 of every array is the image id, cut into blocks of B ids; one block is one chunk.
N images, H x W pixels, V views an image, P view components, C classes, B ids a block.

    array                     dtype     shape           chunk           fill   holds
    images                    uint8     (N, H, W, 3)    (B, H, W, 3)    0      RGB pixels
    class_ids                 int32     (N,)            (B,)            -1     the class the generator was asked for
    checks                    uint32    (N, 2)          (B, 2)          0      crc32c's of id and class; id, class and pixels
    views/<view set>          float32   (N, V, P + 1)   (B, V, P + 1)   NaN    crop box, flip (and mix) of each view; its id
    labels/<label set>/...    codec's   (N, V, ...)     (B, V, ...)     codec  the teacher's logits, as the codec writes them
    labels/<label set>/quality float32  (N, 3)          (B, 3)          NaN    teacher's top-1, p(class id), entropy (nats)
    labels/<label set>/checks uint32    (N, 2)          (B, 2)          0      crc32c's of quality and of the codec's arrays
    labels/<label set>/constants/...   what a codec needs to decode all blocks alike, such as a basis: written once, one chunk
    columns/<name>            float64   (N, 2)          (B, 2)          NaN    a number of the user's for each image; its crc32c
    runs/<time>-<host>-<process>/...   who made which block, when and on what: groups with attributes, no arrays (run_log.py)
    tags/<name>               what the store held when it was given this name: a group whose attribute ``manifest`` has a sha256
                              for each array, and a constant ``digests`` with one for each block (tags/tag.py)
    rounds/<k>                what the images of round k were made by: a group with attributes, and the constant ``student``, the
                              safetensors file of the student that they follow, if they follow one (rounds.py)
    card                      the data set's card: a group whose attribute ``readme`` is its README.md: for people, in no identity

Attributes of the root: ``dmkd_format``, ``state``, ``recipe``, ``identity``, ``source``, ``class_names``, ``block_size``,
``image_codec``, ``created``, ``updated``, ``versions``, and ``class_wnids``, the classes' WordNet ids, where they are known. Of
a view set: ``components``, ``num_views``, ``policy``, ``seed``, ``size``, ``interpolation``, ``canonical``, ``identity`` ... Of a
label set: ``teacher``, ``source``, ``view_set``, ``num_views``, ``codec``, ``num_classes``, ``identity``, and ``fitted`` once its
constants and arrays are there. A ``teacher`` names the ``precision`` of its forward pass unless that is float32, and its
``outputs`` that are the store's classes unless all are, in order: logits, quality (top-1, p(class), entropy) and what a codec has
of its last layer are of these C alone. ``quality_view`` is the view that quality is of, which is its teacher's evaluation view:
``box``, ``size`` and ``interpolation``; without it, quality is of the view set's ``canonical`` view, at its ``size`` and
``interpolation`` (in label sets of dmkd before there was the attribute, whoever the teacher is). Of a column: ``description``,
``identity``. In a store with
rounds the columns ``round`` and ``score``, marked ``of_rounds``, are written with each block; a score is NaN where there was no
student. Of a round: ``start`` and ``images``, its ids, ``before``, the identity of the round before it (of the first one, the
store's), and ``identity``, which follows from that and from all the rest. Saved
selections are attributes of the group ``selections``: name -> expression.

Class ids are 0 to C - 1. Where the recipe has ``compact_classes`` they number its ``classes``, ids of the generator, in ascending
order; in older stores of some ``classes`` they are the generator's ids, and C is all that it has.

``dmkd_format`` is the number of this format, 1; a root that has everything else but no number is read as 1. A change that would
make an older dmkd read something wrong gets the next number, and dmkd refuses stores with a number it does not know, before it
reads or writes anything else in them. The number is not part of the identity.

Rules:

- Every chunk ends in its crc32c, so a damaged chunk is an error and never a wrong picture or label.
- Every row is bound to its place, so a whole chunk that was moved between blocks, or copied from another store, is an
  error too (:mod:`dmkd.stores.checks` has the formulas). An image is bound to its id and class by ``checks``. Views are
  bound to their image by their last component, id mod 2**24, which readers check and leave out. Quality is bound to
  label set, id and pixels, and a codec's arrays also to the stored views that they were made from, by their set's ``checks``.
- A column's second component is a crc32c over its identity, the image's id and pixels, and the number; as a float64 it is exact.
- A block is done when its chunk exists. Within a block the order of writing is views, labels, class ids, checks, images;
  within a label set it is quality, checks, then the codec's arrays. The last one written is the marker (``images``, or
  the codec's last array), so a block that is half-written counts as missing and is made again. When a block is
  rewritten with different contents, the markers of everything that no longer holds are deleted first.
- Pixels are raw, or image files in a chunk: ``image_codec`` is ``raw``, ``webp`` or ``jpeg:<quality>`` (see image_chunks.py).
  Teachers see the pixels as a reader gets them, and the checks cover those.
- Chunk keys are ``c.<block>.0...``: one flat folder for an array. In an array that is *packed* (``dmkd pack``, or more than
  8,192 blocks) shards hold the chunks of many blocks, byte for byte, in Zarr's sharding codec: ``<shard>.0...`` in the same
  folder. A chunk ``c.<block>.0...`` beside them takes precedence, until it is folded into its shard; if it is the word
  ``deleted``, the block is missing. See :mod:`dmkd.stores.trees.packed`.
- All arrays are created at their final shape by one process; workers write whole chunks and never touch metadata.

In HDF5 (``.h5`` or ``.hdf5``) the same tree is one file: the same nodes, shapes, dtypes and chunks. What differs: attributes
are JSON as text; a chunk ends in HDF5's Fletcher-32 instead of a crc32c, and is compressed by shuffle and deflate where Zarr
has Zstd or Blosc; images are raw; axes are not permuted within a chunk. A block is written as a whole (journaled_file.py).
As HDF5 can't delete a chunk, deleted blocks are named in the array's attribute ``deleted_blocks``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

FORMAT = "dmkd_format"
FORMAT_VERSION = 1

IMAGES = "images"
CLASS_IDS = "class_ids"
CHECKS = "checks"
VIEWS = "views"
LABELS = "labels"
QUALITY = "quality"
CONSTANTS = "constants"
COLUMNS = "columns"
ROUND, SCORE = "round", "score"  # columns of a store that has rounds
ROUNDS = "rounds"
STUDENT = "student"
SELECTIONS = "selections"
TAGS = "tags"
CARD = "card"

DEFAULT_PRECISION = "float32"  # of a teacher that names none

QUALITY_COMPONENTS = ("top1", "p_class", "entropy")

TARGET_CHUNK_BYTES = 16 * 2**20
MAX_BLOCK_SIZE = 256  # images, unless a user asks for more


@dataclass(frozen=True)
class ArraySpec:
    """One array of the store, except for the number of images and the block size, which all arrays share.

    ``shape`` is what one image takes, ``dims`` names every axis but the first, which is always ``image``.
    ``compression`` is ``None`` (chunks that can be memory-mapped), ``"zstd"``, or ``"bitshuffle"`` (Blosc: bit planes, then
    Zstd). ``order`` permutes the axes, the first included, inside a chunk, and so decides what is adjacent in the file.
    """

    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    fill_value: float | int
    compression: str | None = None
    order: tuple[int, ...] | None = None
    image_codec: str = "raw"  # of images: how their pixels are written

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.dims), (self.shape, self.dims)


class Share(NamedTuple):
    """The share of its raw bytes that an array takes on disk, and how exactly that is known in advance."""

    exactness: Literal["exact", "at most", "about"]
    of_raw: float


def stored_format(attributes: Mapping[str, Any]) -> Any:
    """The format number in a root's attributes, 1 if they are a store's but have none; None if they are not a store's."""
    of_a_store = {"state", "recipe", "identity"} <= attributes.keys()
    return attributes.get(FORMAT, 1 if of_a_store else None)


def images_spec(image_shape: tuple[int, int, int], image_codec: str = "raw") -> ArraySpec:
    return ArraySpec(image_shape, "uint8", ("y", "x", "channel"), 0, image_codec=image_codec)


def class_ids_spec() -> ArraySpec:
    return ArraySpec((), "int32", (), -1)


def checks_spec() -> ArraySpec:
    return ArraySpec((2,), "uint32", ("check",), 0)


def views_spec(num_views: int, num_components: int) -> ArraySpec:
    """One component more than the views have: it says which image they belong to."""
    return ArraySpec((num_views, num_components + 1), "float32", ("view", "component"), float("nan"))


def quality_spec() -> ArraySpec:
    return ArraySpec((len(QUALITY_COMPONENTS),), "float32", ("quality",), float("nan"))


def column_spec() -> ArraySpec:
    return ArraySpec((2,), "float64", ("component",), float("nan"))


def label_specs(codec_arrays: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    """All arrays of a label set that have blocks, by name, in the order of writing."""
    return {QUALITY: quality_spec(), CHECKS: checks_spec(), **codec_arrays}


def choose_block_size(image_shape: tuple[int, int, int]) -> int:
    """Ids a block: the largest power of two, at most 256, whose image chunk is at most 16 MB; 1 if an image is larger.

    256 x 256 gives 64, 128 x 128 and smaller 256: a block of small images is little work too, so that stopping takes
    seconds and a crash costs little. The number of images has no say: a store that begins small may grow large.
    """
    limit = max(1, min(MAX_BLOCK_SIZE, TARGET_CHUNK_BYTES // math.prod(image_shape)))
    return 1 << (limit.bit_length() - 1)
