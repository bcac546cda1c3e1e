"""Where a test's store lies, read and changed behind dmkd's back: a folder, a prefix of a bucket on an S3 server, or a file.

A new backend has a class here and a line in ``PLACES``: then all that is true of every tree and of every store is tested of it.
"""

import json
import os
from pathlib import Path
from typing import ClassVar

import pytest


class Folder:
    """``path`` is that of a store; files below it by name, such as ``images/c.0.0.0.0``."""

    suffix = ".zarr"

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)

    @classmethod
    def new(cls, folder: Path, request: pytest.FixtureRequest) -> "Folder":
        """A place that nothing else is at, in a folder of the test's own or by its name."""
        return cls(folder / f"s{cls.suffix}")

    def sibling(self, name: str) -> "Folder":
        return Folder(Path(self.path).parent / name)

    def read(self, name: str) -> bytes:
        return (Path(self.path) / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        file = Path(self.path) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def names(self) -> list[str]:
        root = Path(self.path)
        return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())

    def chunks(self) -> dict[str, bytes]:
        """Every chunk by name: what two equal stores have in common to the bit."""
        return {name: self.read(name) for name in self.names() if Path(name).name.startswith("c.")}

    def litter(self) -> None:
        """Put something there that is no store."""
        self.write("hello.txt", b"hello")


class BucketPrefix(Folder):
    """The same in a bucket, through boto3 and not through the library that dmkd uses."""

    def __init__(self, path: str) -> None:
        import boto3

        self.path = path
        self._bucket, _, self._prefix = path.removeprefix("s3://").partition("/")
        self._client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])

    @classmethod
    def new(cls, folder: Path, request: pytest.FixtureRequest) -> "BucketPrefix":
        return cls(f"{request.getfixturevalue('s3_bucket')}/{folder.name}/s.zarr")

    def sibling(self, name: str) -> "BucketPrefix":
        return BucketPrefix(f"{self.path.rpartition('/')[0]}/{name}")

    def read(self, name: str) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")["Body"].read()

    def write(self, name: str, content: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=content)

    def names(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{self._prefix}/")
        return sorted(item["Key"][len(self._prefix) + 1 :] for page in pages for item in page.get("Contents", []))


class Hdf5File(Folder):
    """The same in an HDF5 file: chunks are named as in a folder, and what is written is what filters would have written."""

    suffix = ".h5"

    def sibling(self, name: str) -> Folder:
        return (Hdf5File if name.endswith(".zarr") else Folder)(Path(self.path).parent / name.replace(".zarr", ".h5"))

    def read(self, name: str) -> bytes:
        import h5py

        with h5py.File(self.path, "r", locking=False) as file:
            array, corner = self._chunk(file, name)
            return bytes(array.id.read_direct_chunk(corner)[1])

    def write(self, name: str, content: bytes) -> None:
        from dmkd.stores.trees.hdf5_tree import Hdf5Tree

        tree = Hdf5Tree(self.path)
        tree.create_root()
        if name.endswith("zarr.json"):
            node = name.removesuffix("zarr.json").rstrip("/")
            with tree.transaction():
                if node:
                    tree.create_group(node)
                for attribute in tree.attributes(node):
                    del tree._changing[node or "/"].attrs[attribute]
                tree.set_attributes(json.loads(content)["attributes"], node)
        else:
            with tree.transaction():
                array, corner = self._chunk(tree._changing, name)
                array.id.write_direct_chunk(corner, content, 0)

    def names(self) -> list[str]:
        import h5py

        found: list[str] = []

        def visit(node: str, array: object) -> None:
            if isinstance(array, h5py.Dataset):
                array.id.chunk_iter(lambda chunk: found.append(self._name(node, array, chunk.chunk_offset)))

        with h5py.File(self.path, "r", locking=False) as file:
            file.visititems(visit)
        return sorted(found)

    def litter(self) -> None:
        Path(self.path).write_text("hello")

    @staticmethod
    def _name(node: str, array, corner: tuple[int, ...]) -> str:
        return f"{node}/c." + ".".join(str(o // n) for o, n in zip(corner, array.chunks, strict=True))

    @staticmethod
    def _chunk(file, name: str):
        node, _, places = name.rpartition("/c.")
        array = file[node]
        return array, tuple(int(p) * n for p, n in zip(places.split("."), array.chunks, strict=True))


class PackedFolder(Folder):
    """A folder whose arrays are packed from the start, in shards of two blocks, and where every block that is written is folded
    into its shard at once. Chunks have the names that they would have as files."""

    paths: ClassVar[set[str]] = set()  # of all such places

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        if not self.paths:
            self._pack_what_is_made_there()
        self.paths.add(self.path)

    @classmethod
    def _pack_what_is_made_there(cls) -> None:
        from dmkd.stores.trees.zarr_tree import ZarrTree

        pack_if_many, write = ZarrTree._pack_if_many, ZarrTree.write_block

        def pack(tree, node: str) -> None:
            if tree.path in cls.paths:
                tree.make_packed(node, 2)
            else:
                pack_if_many(tree, node)

        def write_and_fold(tree, node: str, block: int, rows: object) -> None:
            write(tree, node, block, rows)
            if tree.path in cls.paths:
                tree.packed(node).fold(lambda chunk: True, False, lambda blocks: None)

        ZarrTree._pack_if_many, ZarrTree.write_block = pack, write_and_fold

    def sibling(self, name: str) -> "PackedFolder":
        return PackedFolder(Path(self.path).parent / name)

    def read(self, name: str) -> bytes:
        found = self._found(name)
        if found is None:
            return super().read(name)
        content, index, place = found
        start, length = index[place].tolist()
        return content[start : start + length]

    def write(self, name: str, content: bytes) -> None:
        found = self._found(name)
        if found is None:
            super().write(name, content)
        else:
            from dmkd.stores.trees import shards

            shard, index, place = found
            chunks = [None if at == shards.ABSENT else shard[at : at + length] for at, length in index.tolist()]
            chunks[place] = content
            with open(self._shard(name), "wb") as file:
                shards.write_shard(file, chunks)

    def names(self) -> list[str]:
        from dmkd.stores.trees import shards

        found = []
        for name in super().names():
            node, _, file = name.rpartition("/")
            if node and file[0].isdecimal():
                number, _, ending = file.partition(".")
                content = super().read(name)
                index = shards.parse_index(content[-36:], 2, len(content))
                found += [
                    f"{node}/c.{2 * int(number) + place}.{ending}".rstrip(".") for place in shards.blocks_in(index)
                ]
            else:
                found.append(name)
        return sorted(found)

    def _found(self, name: str):
        """The shard that holds a chunk, its index, and the chunk's place in it; None for any other file."""
        from dmkd.stores.trees import shards

        if not Path(name).name.startswith("c.") or not os.path.exists(self._shard(name)):
            return None
        content = Path(self._shard(name)).read_bytes()
        index, place = (
            shards.parse_index(content[-36:], 2, len(content)),
            int(name.rpartition("/c.")[2].split(".")[0]) % 2,
        )
        return None if index[place, 0] == shards.ABSENT else (content, index, place)

    def _shard(self, name: str) -> str:
        node, _, places = name.rpartition("/c.")
        block, *others = places.split(".")
        return f"{self.path}/{node}/" + ".".join([str(int(block) // 2), *others])


PLACES = {"folder": Folder, "s3": BucketPrefix, "hdf5": Hdf5File, "packed": PackedFolder}


def group_json(**attributes: object) -> bytes:
    """The ``zarr.json`` of a Zarr v3 group."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode()
