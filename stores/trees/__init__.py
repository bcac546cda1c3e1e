"""What a store is written in: a Zarr hierarchy in a folder or a bucket, or one HDF5 file."""
