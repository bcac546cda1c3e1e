"""An export as Parquet that Hugging Face ``datasets`` reads with its types: ``load_dataset("parquet", data_files="*.parquet")``.

Columns: ``id``; ``image``, a struct of bytes and path, an Image there; ``label``, a ClassLabel; of each label set
``<label set>_logits``, a list or a list of lists, ``_top1``, ``_p_class`` and ``_entropy``; of each view set
``<view set>_views``; each column of the store's as ``column_<name>``, float64.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.formats.samples import ALL, ImageFormat, Sample, SampleReader, view_sets_of
from dmkd.runtime.whole_files import whole_file
from dmkd.stores import UsageError

ROW_GROUP_BYTES = 100_000_000


class ParquetExport:
    """Files of ``part_images`` consecutive ids, each written as a whole, in row groups of at most 100 MB."""

    def __init__(self, folder: Path, reader: SampleReader, part_images: int) -> None:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UsageError("--format parquet needs pyarrow: pip install 'dmkd[export]'.") from error
        self.part_images = part_images
        self._folder, self._format = folder, reader.image_format
        self._schema = _schema(reader)

    def part_name(self, number: int) -> str | None:
        return f"train-{number:06d}.parquet"

    def to_do(self, number: int, ids: np.ndarray) -> np.ndarray:
        return ids

    def write(self, number: int, samples: Iterator[list[Sample]], advance: Callable[[int], None]) -> None:
        import pyarrow.parquet as parquet

        with (
            whole_file(self._folder / f"{self.part_name(number)}") as partial,
            parquet.ParquetWriter(partial, self._schema, compression="zstd") as writer,
        ):
            for group in _groups(self._tables(samples, advance)):
                writer.write_table(group, row_group_size=max(1, group.num_rows))

    def side_files(self) -> dict[str, str]:
        return {}

    def notices(self, ids: np.ndarray) -> list[str]:
        return []

    def data_files(self) -> str:
        return "*.parquet"

    def _tables(self, samples: Iterator[list[Sample]], advance: Callable[[int], None]) -> Iterator[Any]:
        for block in samples:
            yield _arrow_table(block, self._schema, self._format)
            advance(len(block))


def _groups(tables: Iterator[Any]) -> Iterator[Any]:
    """Tables joined, or cut, to row groups of at most 100 MB; a single row may be larger."""
    import pyarrow as pa

    held: list[Any] = []
    for table in tables:
        rows = max(1, ROW_GROUP_BYTES // max(1, table.nbytes // table.num_rows + 1))
        for start in range(0, table.num_rows, rows):
            piece = table.slice(start, rows)
            if held and sum(t.nbytes for t in held) + piece.nbytes > ROW_GROUP_BYTES:
                yield pa.concat_tables(held)
                held = []
            held.append(piece)
    if held:
        yield pa.concat_tables(held)


def _schema(reader: SampleReader) -> Any:
    """Arrow's types, along with those of ``datasets``, as its own writer records them."""
    import pyarrow as pa

    def value(dtype: str) -> tuple[Any, dict[str, Any]]:
        return pa.from_numpy_dtype(np.dtype(dtype)), {"dtype": dtype, "_type": "Value"}

    def lists(dtype: str) -> tuple[Any, dict[str, Any]]:
        arrow, feature = value(dtype)
        for _ in range(2 if reader.views == ALL else 1):
            # "Sequence" is what every version of datasets reads; since 4.0 it writes "List".
            arrow, feature = pa.list_(arrow), {"feature": feature, "_type": "Sequence"}
        return arrow, feature

    columns: dict[str, tuple[Any, dict[str, Any]]] = {
        "id": value("int64"),
        "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"}),
        "label": (pa.int64(), {"names": distinct(reader.store.class_names), "_type": "ClassLabel"}),
    }
    for label_set in reader.label_sets:
        columns[f"{label_set.name}_logits"] = lists(reader.dtype)
        columns[f"{label_set.name}_top1"] = value("int32")
        columns[f"{label_set.name}_p_class"] = value("float32")
        columns[f"{label_set.name}_entropy"] = value("float32")
    for name in view_sets_of(reader.label_sets):
        columns[f"{name}_views"] = lists("float32")
    for column in reader.columns:
        columns[f"column_{column.name}"] = value("float64")
    features = {"info": {"features": {name: feature for name, (_, feature) in columns.items()}}}
    return pa.schema(
        [(name, arrow) for name, (arrow, _) in columns.items()], metadata={"huggingface": json.dumps(features)}
    )


def distinct(class_names: Sequence[str]) -> list[str]:
    """Names as a ClassLabel takes them, no two alike: ImageNet's two cranes become ``crane (134)`` and ``crane (517)``."""
    counts = Counter(class_names)
    return [name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(class_names)]


def _arrow_table(samples: Sequence[Sample], schema: Any, image_format: ImageFormat) -> Any:
    import pyarrow as pa

    columns: dict[str, Any] = {
        "id": [sample.id for sample in samples],
        "image": [{"bytes": sample.image, "path": f"{sample.key}.{image_format.suffix}"} for sample in samples],
        "label": [sample.class_id for sample in samples],
    }
    for name in samples[0].logits:
        columns[f"{name}_logits"] = _list_array(np.stack([sample.logits[name] for sample in samples]))
        for component in samples[0].quality[name]:
            columns[f"{name}_{component}"] = [sample.quality[name][component] for sample in samples]
    for name in samples[0].views:
        columns[f"{name}_views"] = _list_array(np.stack([sample.views[name] for sample in samples]))
    for name in samples[0].columns:
        columns[f"column_{name}"] = [sample.columns[name] for sample in samples]
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for field, column in zip(schema, (columns[name] for name in schema.names), strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _list_array(array: np.ndarray) -> Any:
    """(n, ...) -> n lists, nested as the array is."""
    import pyarrow as pa

    nested = pa.array(np.ascontiguousarray(array).reshape(-1))
    for axis in range(array.ndim - 1, 0, -1):
        count = int(np.prod(array.shape[:axis]))
        offsets = np.arange(count + 1, dtype=np.int32) * array.shape[axis]
        nested = pa.ListArray.from_arrays(pa.array(offsets), nested)
    return nested
