"""What a store is written in: a Zarr hierarchy in a folder or bucket, or an HDF5 file. Both have the same verbs."""

from typing import TYPE_CHECKING, TypeAlias

from .. import locations

if TYPE_CHECKING:
    from .hdf5_tree import Hdf5Tree
    from .zarr_tree import ZarrTree

    Tree: TypeAlias = ZarrTree | Hdf5Tree


def open_tree(path: str) -> "Tree":
    """The tree at ``path``: HDF5 if it ends in .h5 or .hdf5, else Zarr. Nothing is read yet."""
    if locations.is_hdf5(path):
        from .hdf5_tree import Hdf5Tree

        return Hdf5Tree(path)
    from .zarr_tree import ZarrTree

    return ZarrTree(path)
