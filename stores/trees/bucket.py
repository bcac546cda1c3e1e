"""A store in a bucket: Zarr's view of an object store, through obstore. Only PUT, GET, HEAD, DELETE and LIST.

Every request goes through :class:`Bucket`, where every failure becomes one sentence. Transient failures are retried below it,
by obstore, until ``PATIENCE`` runs out.
"""

import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import ObjectStore

from .. import locations
from ..errors import NotAStoreError, StoreError, StoreUnreachableError, StoreWriteError, UsageError, first_line

REQUEST_TIME = timedelta(seconds=60)
# Larger chunks go up in several parts, which a killed writer leaves behind invisibly; see the README on expiring them.
SINGLE_PUT_BYTES = 32 * 2**20
PATIENCE = timedelta(minutes=3)  # a server restart does not end a run
FIRST_PATIENCE = timedelta(seconds=5)  # but a wrong URL is reported quickly

_reached: set[tuple[str | None, str]] = set()  # (endpoint, bucket) that have answered this process


def open_bucket(path: str) -> "Bucket":
    """The storage of a store at ``s3://bucket/name`` (or gs, az), by the credentials of the environment.

    On first use in a process it is asked for a listing and must answer within seconds. Raises ``UsageError`` for what can't
    be a bucket or for a missing library, ``NotAStoreError`` if there is no such bucket, ``StoreError`` if it refuses the
    credentials or there are none, ``StoreUnreachableError`` if it does not answer.
    """
    known = (locations.endpoint(), locations.bucket(path))
    if known not in _reached:
        sync(_list_once(Bucket(_connect(path, FIRST_PATIENCE), path)))
        _reached.add(known)
    return Bucket(_connect(path, PATIENCE), path)


class Bucket(ObjectStore):
    """zarr's ObjectStore, whose failures are ``StoreError``s that name the store at ``path``, and a
    :class:`dmkd.stores.trees.place.Place`."""

    reads_at_once = 16  # most of the time is spent waiting

    def __init__(self, store: Any, path: str, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self.path = path

    def with_read_only(self, read_only: bool = False) -> "Bucket":
        return Bucket(self.store, self.path, read_only=read_only)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        with self._with_store_errors(key):
            return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        with self._with_store_errors(key):
            return await super().exists(key)

    async def set(self, key: str, value: Any) -> None:
        import obstore

        self._check_writable()
        with self._with_store_errors(key, writing=True):
            # One PUT rather than the many requests of a multipart upload. An existing object is replaced, as a whole.
            await obstore.put_async(self.store, key, value.as_buffer_like(), chunk_size=SINGLE_PUT_BYTES)

    async def delete(self, key: str) -> None:
        with self._with_store_errors(key, writing=True):
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with self._with_store_errors(prefix, writing=True):
            await super().delete_dir(prefix)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        with self._with_store_errors(prefix):
            async for name in super().list_dir(prefix):  # one LIST for a thousand names
                yield name

    @property
    def storage(self) -> "Bucket":
        """What zarr is to open."""
        return self

    def taken(self) -> bool:
        """Whether there is anything at all."""
        return bool(self.names(""))

    def names(self, prefix: str) -> list[str]:
        """Names directly below a prefix."""

        async def collect() -> list[str]:
            return [key.rstrip("/").rsplit("/", 1)[-1] async for key in self.list_dir(prefix)]

        return sync(collect())

    def sizes(self, prefix: str) -> dict[str, int]:
        """Name -> bytes of the objects directly below a prefix: one LIST for a thousand of them."""
        import obstore

        with self._with_store_errors(prefix):
            objects = obstore.list_with_delimiter(self.store, prefix)["objects"]
        return {meta["path"].rpartition("/")[2]: meta["size"] for meta in objects}

    def partials(self) -> list[Path]:
        """None: an object appears whole or not at all."""
        return []

    def read_bytes(self, key: str, start: int | None = None, stop: int | None = None) -> bytes | None:
        """An object, or these bytes of it; None if it is not there."""
        import obstore

        with self._with_store_errors(key):
            try:
                if start is None or stop is None:
                    return bytes(obstore.get(self.store, key).bytes())
                return bytes(obstore.get_range(self.store, key, start=start, end=stop))
            except FileNotFoundError:
                return None

    def write_bytes(self, key: str, content: bytes) -> None:
        """Write a small object."""
        sync(self.set(key, default_buffer_prototype().buffer.from_bytes(content)))

    @contextmanager
    def new_file(self, key: str) -> Iterator[BinaryIO]:
        """An object that is there once the context ends without an exception: written to a temporary file, then uploaded."""
        import obstore

        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with self._with_store_errors(key, writing=True):
                obstore.put(self.store, key, file, chunk_size=SINGLE_PUT_BYTES)

    def remove(self, key: str) -> None:
        """Delete an object, if it is there."""
        sync(self.delete(key))

    @contextmanager
    def _with_store_errors(self, key: str, writing: bool = False) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise _as_store_error(error, self.path, key, writing) from error


async def _list_once(bucket: Bucket) -> None:
    async for _ in bucket.list_dir(""):
        break


def _connect(path: str, patience: timedelta) -> Any:
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise UsageError(f"{path} needs obstore: pip install obstore.") from error
    scheme, endpoint = locations.scheme(path), locations.endpoint()
    client_options: dict[str, Any] = {"timeout": min(REQUEST_TIME, 2 * patience)}
    credentials: dict[str, Any] = {}
    if scheme == "s3":
        if endpoint:
            locations.check_endpoint(endpoint)
        client_options["allow_http"] = bool(endpoint and endpoint.startswith("http://"))
        credentials = _aws_profile(path)
    retry_config: dict[str, Any] = {
        "max_retries": 1000,  # the time decides
        "retry_timeout": patience,
        "backoff": {
            "base": 2,
            "init_backoff": timedelta(seconds=0.1),
            "max_backoff": min(timedelta(seconds=5), patience / 4),
        },
    }
    try:
        return from_url(  # type: ignore[call-overload]  # each overload is for one scheme
            path, client_options=client_options, retry_config=retry_config, **credentials
        )
    except Exception as error:
        if _no_credentials(str(error)):
            raise _as_store_error(error, path, "", writing=False) from error
        raise UsageError(f"{path} can't be opened: {first_line(error)}.") from error


def _aws_profile(path: str) -> dict[str, Any]:
    """Credentials from ~/.aws (keys, profiles, SSO): boto3 reads them, if it is installed and the environment has none."""
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_SKIP_SIGNATURE"):
        return {}
    profile = os.environ.get("AWS_PROFILE")
    places = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")
    if not profile and not any(os.environ.get(name) for name in places) and not (Path.home() / ".aws").is_dir():
        return {}
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        if profile:
            raise UsageError(
                f"AWS_PROFILE={profile} is read by boto3, which is not installed: pip install boto3."
            ) from error
        return {}
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session()
        return {"credential_provider": Boto3CredentialProvider(session)} if session.get_credentials() else {}
    except BotoCoreError as error:
        raise UsageError(f"The AWS profile for {path} can't be used: {error}") from error


def _as_store_error(error: Exception, path: str, key: str, writing: bool) -> StoreError:
    """obstore's error in one sentence. Its text holds the server's answer, an XML document, and the Rust debug output."""
    text = str(error)
    status = int(match[1]) if (match := re.search(r"status code: (\d{3})", text)) else None
    code = match[1] if (match := re.search(r"<Code>(\w+)</Code>", text)) else None
    message = match[1].strip() if (match := re.search(r"<Message>([^<]*)</Message>", text)) else ""
    bucket, scheme = locations.bucket(path), locations.scheme(path)
    assert scheme is not None
    where, failed = locations.join(path, key) if key else path, StoreWriteError if writing else StoreError
    if _no_credentials(text):
        return failed(f"There are no credentials for {bucket}: set {locations.SCHEMES[scheme]} in the environment.")
    if code == "NoSuchBucket" or status == 404 or isinstance(error, FileNotFoundError):
        return NotAStoreError(f"There is no bucket {bucket}{_server(scheme)}: create it first, or correct the name.")
    if status in (401, 403) or code in ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
        verb = "be written" if writing else "be read"
        return failed(
            f"{where} can't {verb}: access is denied ({code or status}); check {locations.SCHEMES[scheme]} and their "
            "permissions."
        )
    if "incorrectly configured region" in text or code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
        return failed(f"{bucket} is in another region: set AWS_REGION accordingly{f' ({message})' if message else ''}.")
    if status is not None and 400 <= status < 500 and status not in (408, 425, 429):
        return failed(
            f"{where}: the object store refused the request ({code or status}{f': {message}' if message else ''})."
        )
    reason = f"answers {status} {code or ''}".strip() if status else _connection(error)
    return StoreUnreachableError(
        f"{where} could not be {'written' if writing else 'read'}: the object store{_server(scheme)} {reason}; once it is "
        "back, rerun the same command to resume."
    )


def _no_credentials(text: str) -> bool:
    """Without credentials obstore asks the cloud machine that it assumes it runs on (169.254.169.254)."""
    return "//169.254." in text or bool(
        re.search(r"Missing ?(AccessKeyId|SecretAccessKey)|MissingAccount|MissingCredentials", text)
    )


def _connection(error: Exception) -> str:
    kind = match[1] if (match := re.search(r"kind: (\w+)", str(error))) else ""
    known = {"Connect": "can't be reached", "Timeout": "did not answer in time"}
    return known.get(kind, f"failed ({first_line(error)})")


def _server(scheme: str) -> str:
    endpoint = locations.endpoint() if scheme == "s3" else None
    return f" at {endpoint}" if endpoint else ""
