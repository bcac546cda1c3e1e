"""Where a store is: a local folder, a prefix of an object store's bucket (``s3://bucket/imnet.zarr``), or a repository on the
Hugging Face hub (``hf://datasets/USER/NAME``).

Code that needs to know which of them it is asks here; :mod:`dmkd.stores.trees.bucket` and :mod:`dmkd.stores.trees.hub` then
talk to the servers.
"""

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote

from .errors import UsageError

HUB = "hf"

# Scheme -> what holds its credentials, for messages.
SCHEMES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    HUB: "HF_TOKEN",
}

_HUB_PATH = re.compile(
    r"hf://(datasets/)?(?!(?:datasets|models|spaces|buckets)/)([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([^@\s]+?))?/?"
)


@dataclass(frozen=True)
class HubPath:
    """A repository on the hub, and the branch, tag or commit that is meant."""

    kind: str  # "dataset" or "model"
    name: str  # USER/NAME
    revision: str | None  # None: main


def hub_path(path: str) -> HubPath:
    """What ``hf://datasets/USER/NAME@REVISION``, or ``hf://USER/NAME`` of a model, names. Raises ``UsageError`` for any other."""
    match = _HUB_PATH.fullmatch(path)
    if not match:
        raise UsageError(
            f"{path} names no repository on the hub: a store is hf://datasets/USER/NAME, a student hf://USER/NAME, and "
            "@REVISION may follow."
        )
    return HubPath("dataset" if match[1] else "model", match[2], unquote(match[3]) if match[3] else None)


def scheme(path: str) -> str | None:
    """``s3``, ``gs``, ``az`` or ``hf``; None for a local path. Raises ``UsageError`` for any other ``scheme://``."""
    name, separator, rest = path.partition("://")
    if not separator or "/" in name:
        return None
    if name not in SCHEMES:
        raise UsageError(f"{path}: a store is a local path or one of {', '.join(f'{s}://…' for s in SCHEMES)}.")
    if name == HUB:
        if hub_path(path).kind != "dataset":
            raise UsageError(f"{path} is a model's repository: a store is hf://datasets/USER/NAME.")
    elif not rest.strip("/") or rest.startswith("/"):
        raise UsageError(f"{path} names no bucket: give {name}://BUCKET/NAME.")
    return name


def require_writable(path: str) -> None:
    """Raise ``UsageError`` for a place that is read only: a repository on the hub changes by whole commits."""
    if scheme(path) == HUB:
        raise read_only(path)


def read_only(path: str) -> UsageError:
    """The error of an attempt to write a store on the hub."""
    return UsageError(
        f"{path} can only be read: `dmkd pull {path}` makes a copy that can be written, and `dmkd push` publishes it again."
    )


def bucket(path: str) -> str:
    """``s3://bucket`` of ``s3://bucket/imnet.zarr``."""
    return "/".join(path.split("/")[:3])


def join(path: str, *names: str) -> str:
    """A path below a store, as a user would write it."""
    return "/".join([path.rstrip("/"), *names])


def endpoint() -> str | None:
    """URL of the S3 server if it is not Amazon's. Set by the environment alone, as for every other S3 client."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def set_endpoint(url: str | None) -> None:
    """Use an S3 server other than Amazon's from now on, here and in processes started later; None changes nothing."""
    if url is not None:
        check_endpoint(url)
        os.environ.pop("AWS_ENDPOINT_URL_S3", None)  # it would take precedence
        os.environ["AWS_ENDPOINT_URL"] = url


def check_endpoint(url: str) -> None:
    """Raise ``UsageError`` if this can't be the URL of a server."""
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url):
        raise UsageError(f"The S3 endpoint must be a URL such as http://localhost:9000, not {url!r}.")
