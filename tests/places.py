"""Where a test's store lies, read and changed behind dmkd's back: a folder, or a prefix of a bucket on an S3 server."""

import json
import os
from pathlib import Path


class Folder:
    """``path`` is that of a store; files below it by name, such as ``images/c.0.0.0.0``."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)

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


class BucketPrefix(Folder):
    """The same in a bucket, through boto3 and not through the library that dmkd uses."""

    def __init__(self, path: str) -> None:
        import boto3

        self.path = path
        self._bucket, _, self._prefix = path.removeprefix("s3://").partition("/")
        self._client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])

    def sibling(self, name: str) -> "BucketPrefix":
        return BucketPrefix(f"{self.path.rpartition('/')[0]}/{name}")

    def read(self, name: str) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")["Body"].read()

    def write(self, name: str, content: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=content)

    def names(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{self._prefix}/")
        return sorted(item["Key"][len(self._prefix) + 1 :] for page in pages for item in page.get("Contents", []))


def place_of(path: str) -> Folder:
    return BucketPrefix(path) if path.startswith("s3://") else Folder(path)


def group_json(**attributes: object) -> bytes:
    """The ``zarr.json`` of a Zarr v3 group."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode()
