"""Where a store is: a local folder, or a prefix of an object store's bucket (``s3://bucket/imnet.zarr``).

Code that needs to know which of the two it is asks here; :mod:`dmkd.stores.trees.bucket` then talks to the bucket.
"""

import os
import re

from .errors import UsageError

# Scheme -> what holds its credentials, for messages.
SCHEMES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


def scheme(path: str) -> str | None:
    """``s3``, ``gs`` or ``az``; None for a local path. Raises ``UsageError`` for any other ``scheme://``."""
    name, separator, rest = path.partition("://")
    if not separator or "/" in name:
        return None
    if name not in SCHEMES:
        raise UsageError(f"{path}: a store is a local path or one of {', '.join(f'{s}://…' for s in SCHEMES)}.")
    if not rest.strip("/") or rest.startswith("/"):
        raise UsageError(f"{path} names no bucket: give {name}://BUCKET/NAME.")
    return name


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
