"""A store as an xarray DataTree: dimension names, attributes, and arrays that are read when they are asked for.

Rows come through the store's own readers, so what is damaged or has not been made is an error here too, and labels are
decoded. Needs xarray (``pip install 'dmkd[notebook]'``), but no dask.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import layout
from ..errors import UsageError
from ..reader import Reader

if TYPE_CHECKING:
    import xarray

Read = Callable[[np.ndarray], np.ndarray]


def to_xarray(store: Reader) -> "xarray.DataTree":
    """What :meth:`dmkd.stores.Store.to_xarray` gives."""
    try:
        import xarray
    except ImportError as error:
        raise UsageError("to_xarray needs xarray: pip install 'dmkd[notebook]'.") from error
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class LazyRows(BackendArray):
        """Rows by image id; the other axes are cut after reading."""

        def __init__(self, read: Read, shape: tuple[int, ...], dtype: Any) -> None:
            self.read, self.shape, self.dtype = read, shape, np.dtype(dtype)

        def __getitem__(self, key: Any) -> Any:
            how = indexing.IndexingSupport.OUTER
            return indexing.explicit_indexing_adapter(key, self.shape, how, self._outer)

        def _outer(self, key: tuple[Any, ...]) -> np.ndarray:
            ids = np.arange(self.shape[0])[key[0]]
            rows = self.read(np.atleast_1d(ids))
            rows = rows[0] if np.ndim(ids) == 0 else rows
            axis = np.ndim(ids)
            for part in key[1:]:
                rows = rows[(slice(None),) * axis + (part,)]
                axis += not isinstance(part, int | np.integer)  # a whole number drops its axis
            return rows

    def lazy(dims: tuple[str, ...], read: Read, shape: tuple[int, ...], dtype: Any, **attributes: Any) -> Any:
        data = indexing.LazilyIndexedArray(LazyRows(read, shape, dtype))
        return xarray.Variable(dims, data, attributes)

    count = store.num_images
    images = lazy(("image", "y", "x", "channel"), lambda ids: store.images[ids], store.images.shape, "uint8")
    class_ids = lazy(("image",), lambda ids: store.class_ids[ids], (count,), "int32", long_name="class asked for")
    attributes = {"path": store.path, "identity": store.identity, "recipe": store.recipe}
    coordinates = {"channel": ["red", "green", "blue"]}
    nodes = {"/": xarray.Dataset({"images": images, "class_ids": class_ids}, coordinates, attributes)}
    for name, view_set in store.views.items():
        shape = (count, view_set.num_views, len(view_set.components))
        views = lazy(("image", "view", "component"), view_set.__getitem__, shape, "float32")
        nodes[f"/{layout.VIEWS}/{name}"] = xarray.Dataset(
            {"views": views}, {"component": list(view_set.components)}, view_set.attributes
        )
    for name, label_set in store.labels.items():
        if not label_set.fitted:
            continue
        shape = (count, label_set.num_views, label_set.num_classes)
        logits = lazy(("image", "view", "class"), label_set.logits, shape, "float32")
        quality = lazy(
            ("image", "opinion"), label_set.quality.__getitem__, (count, 3), "float32", units="entropy: nats"
        )
        nodes[f"/{layout.LABELS}/{name}"] = xarray.Dataset(
            {"logits": logits, "quality": quality},
            {"class": store.class_names, "opinion": list(layout.QUALITY_COMPONENTS)},
            label_set.attributes,
        )
    return xarray.DataTree.from_dict(nodes)
