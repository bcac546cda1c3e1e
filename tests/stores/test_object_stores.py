"""Stores in a bucket: what users are told when it fails, every command on s3://, how many requests are made.

The contract of a store is tested on buckets and folders alike in test_stores.py; a real S3 server is in test_swift.py.
"""

import builtins
import http.server
import json
import os
import pickle
import threading
import time
from datetime import timedelta

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import block_arrays, filled_store, new_store
from places import BucketPrefix
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from dmkd.cli.main import main
from dmkd.making.blocks import BlockWorker, WorkOrder
from dmkd.stores import (
    NotAStoreError,
    StoreError,
    StoreUnreachableError,
    StoreWriteError,
    UsageError,
    locations,
    open_store,
)
from dmkd.stores.trees import bucket as object_storage


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def place(s3_bucket, tmp_path) -> BucketPrefix:
    return BucketPrefix(f"{s3_bucket}/{tmp_path.name}/s.zarr")


@pytest.fixture
def forgetful(monkeypatch):
    """As in a new process, no server has answered yet."""
    monkeypatch.setattr(object_storage, "_reached", set())


class Server:
    """An S3 server of one answer: a status and a body for every request, or none and the connection is cut."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self.body, self.promised = b"", 0
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append(f"{self.command} {self.path}")
                if outer.status:
                    self.send_response(outer.status)
                    self.send_header("ETag", '"0"')
                    self.send_header("Content-Length", str(outer.promised or len(outer.body)))
                    self.end_headers()
                    self.wfile.write(outer.body)
                else:
                    self.close_connection = True

            do_GET = do_PUT = do_HEAD = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def refuse(self, status: int | None, code: str, message: str = "") -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        self.status, self.body = status, body.encode()


@pytest.fixture
def server(s3_bucket, monkeypatch, forgetful):
    server = Server()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setattr(object_storage, "FIRST_PATIENCE", timedelta(seconds=0.5))
    yield server
    server.server.shutdown()
    server.server.server_close()


# Where a store may lie


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("imnet.zarr", None),
        ("/data/a://b.zarr", None),
        ("s3://bucket", "s3"),
        ("s3://bucket/a/b.zarr", "s3"),
        ("gs://bucket/b", "gs"),
        ("az://container/b", "az"),
    ],
)
def test_paths_are_local_unless_a_scheme_says_otherwise(path, scheme):
    assert locations.scheme(path) == scheme


@pytest.mark.parametrize("path", ["ftp://host/x", "s3://", "s3:///x", "S3://bucket/x", "file:///x"])
def test_other_schemes_and_missing_buckets_are_told(path):
    result = dmkd("inspect", path)
    assert result.exit_code == 2 and path in result.stderr and "Traceback" not in result.stderr


def test_a_store_may_be_a_whole_bucket_or_have_an_odd_name(s3_bucket):
    import boto3

    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="whole-bucket")
    for path in ("s3://whole-bucket", f"{s3_bucket}/Zürich 1+1=2 %20&x.zarr", f"{s3_bucket}/slash.zarr/"):
        store = filled_store(path, num_images=16)
        np.testing.assert_array_equal(open_store(path).images[:], block_arrays(store, 0)["images"])
    assert "images/c.0.0.0.0" in BucketPrefix("s3://dmkd-tests/slash.zarr").names()


# Failures, told


def test_a_bucket_that_is_not_there(s3_bucket, forgetful):
    for act in (open_store, new_store):
        with pytest.raises(NotAStoreError, match="no bucket s3://nothing-here at http://127.0.0.1.*create it first"):
            act("s3://nothing-here/s.zarr")


def test_a_server_that_is_not_there_is_told_within_seconds(s3_bucket, monkeypatch, forgetful):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    start = time.monotonic()
    with pytest.raises(StoreUnreachableError, match="the object store at http://127.0.0.1:1 can't be reached"):
        open_store(f"{s3_bucket}/s.zarr")
    assert time.monotonic() - start < 12


@pytest.mark.parametrize("url", ["localhost:9000", "http://", "http://a b", "ftp://x"])
def test_what_is_no_url_of_a_server_is_told(s3_bucket, monkeypatch, forgetful, url):
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    result = dmkd("inspect", f"{s3_bucket}/s.zarr")
    assert result.exit_code == 2 and f"not {url!r}" in result.stderr
    assert dmkd("inspect", f"{s3_bucket}/s.zarr", "--endpoint-url", url).stderr == result.stderr


def test_missing_credentials_are_told_at_once(s3_bucket, tmp_path, monkeypatch, forgetful):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    # Half of a pair; without both, obstore asks the cloud machine that it may run on, which is not for tests.
    with pytest.raises(StoreError, match="There are no credentials for s3://dmkd-tests: set AWS_ACCESS_KEY_ID"):
        open_store(f"{s3_bucket}/s.zarr")


def test_credentials_of_a_profile(place, tmp_path, monkeypatch, forgetful):
    filled_store(place.path, num_images=16)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert open_store(place.path).missing_blocks() == []
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(UsageError, match="AWS profile.*other"):
        open_store(place.path)
    monkeypatch.setattr(builtins, "__import__", _import_but("boto3"))
    with pytest.raises(UsageError, match="AWS_PROFILE=other is read by boto3, which is not installed"):
        open_store(place.path)


def test_a_missing_obstore_is_told(s3_bucket, monkeypatch):
    monkeypatch.setattr(builtins, "__import__", _import_but("obstore"))
    with pytest.raises(UsageError, match="needs obstore: pip install obstore"):
        open_store(f"{s3_bucket}/s.zarr")


def _import_but(name, real=builtins.__import__):
    def fake(module, *arguments, **options):
        if module.split(".")[0] == name:
            raise ImportError(f"No module named {name!r}")
        return real(module, *arguments, **options)

    return fake


@pytest.mark.parametrize(
    ("status", "code", "error", "told"),
    [
        (
            403,
            "SignatureDoesNotMatch",
            StoreError,
            "access is denied (SignatureDoesNotMatch); check AWS_ACCESS_KEY_ID",
        ),
        (403, "AccessDenied", StoreError, "access is denied (AccessDenied)"),
        (400, "ExpiredToken", StoreError, "access is denied (ExpiredToken)"),
        (400, "InvalidArgument", StoreError, "refused the request (InvalidArgument: so it says)"),
        (
            400,
            "AuthorizationHeaderMalformed",
            StoreError,
            "is in another region: set AWS_REGION accordingly (so it says)",
        ),
        (404, "NoSuchBucket", NotAStoreError, "There is no bucket"),
        (503, "SlowDown", StoreUnreachableError, "answers 503 SlowDown; once it is back, rerun the same command"),
        (None, "", StoreUnreachableError, "the object store at http"),
    ],
)
def test_what_the_server_answers_becomes_one_sentence(server, s3_bucket, status, code, error, told):
    server.refuse(status, code, "so it says")
    start = time.monotonic()
    result = dmkd("inspect", f"{s3_bucket}/s.zarr")
    assert time.monotonic() - start < 5
    assert result.exit_code == error.exit_code and told in result.stderr, result.stderr
    assert (
        len(result.stderr.strip().splitlines()) == 1 and "<" not in result.stderr and "unexpected" not in result.stderr
    )
    with pytest.raises(error) as raised:
        open_store(f"{s3_bucket}/s.zarr")
    assert type(raised.value) is error


def test_a_refused_write_ends_a_run_and_one_that_may_yet_succeed_does_not(server, s3_bucket, monkeypatch):
    monkeypatch.setattr(object_storage, "PATIENCE", timedelta(seconds=0.5))
    storage = open_bucket_of(server, f"{s3_bucket}/s.zarr")
    server.refuse(403, "AccessDenied")
    with pytest.raises(StoreWriteError, match=r"s.zarr/images/c.0 can't be written: access is denied"):
        sync(storage.set("images/c.0", CHUNK))
    server.refuse(503, "SlowDown")
    with pytest.raises(StoreUnreachableError, match=r"s.zarr/images/c.0 could not be written"):
        sync(storage.set("images/c.0", CHUNK))
    assert len(server.requests) > 4, "tried again before it was told"


def test_an_outage_that_passes_is_not_noticed(server, s3_bucket):
    storage = open_bucket_of(server, f"{s3_bucket}/s.zarr")
    server.refuse(503, "ServiceUnavailable")
    threading.Timer(1.0, lambda: setattr(server, "status", 200)).start()
    sync(storage.set("images/c.0", CHUNK))
    assert server.requests[-1] == "PUT /dmkd-tests/s.zarr/images/c.0" and len(server.requests) > 3


def test_a_chunk_that_breaks_off_is_no_damaged_chunk(server, s3_bucket, monkeypatch):
    monkeypatch.setattr(object_storage, "PATIENCE", timedelta(seconds=0.5))
    storage = open_bucket_of(server, f"{s3_bucket}/s.zarr")
    server.status, server.body, server.promised = 200, b"half", 8
    with pytest.raises(StoreUnreachableError, match=r"s.zarr/images/c.0 could not be read"):
        sync(storage.get("images/c.0", default_buffer_prototype()))


CHUNK = default_buffer_prototype().buffer.from_bytes(b"1234")
EMPTY = b"<?xml version='1.0'?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


def open_bucket_of(server, path):
    """The storage of a store on a server that first answers that there is nothing."""
    server.status, server.body = 200, EMPTY
    return object_storage.open_bucket(path)


# Every command


def test_a_damaged_chunk_in_a_bucket_is_found_deleted_and_made_again(place, tiny_generator, tiny_teacher):
    # fmt: off
    arguments = ["--store", place.path, "--generator", tiny_generator, "--teacher", tiny_teacher, "--images", 32,
                 "--block-size", 16, "--steps", 2, "--sampler", "ddim", "--views", "rrc:2", "--device", "cpu"]
    # fmt: on
    made = dmkd("generate", *arguments)
    assert made.exit_code == 0, made.output
    before = place.chunks()
    assert len(before) > 4 and dmkd("verify", place.path).exit_code == 0
    content = before["images/c.1.0.0.0"]
    place.write("images/c.1.0.0.0", content[:100] + bytes([content[100] ^ 1]) + content[101:])
    found = dmkd("verify", place.path, "--repair")
    assert found.exit_code == 0 and "images, block 1" in found.stdout and f"--store {place.path}" in found.stdout
    assert "images/c.1.0.0.0" not in place.names()
    assert dmkd("generate", "--store", place.path, "--device", "cpu").exit_code == 0
    assert place.chunks() == before


def test_label_train_and_evaluate_in_a_bucket(place, tiny_generator, tiny_teacher, other_teacher, tmp_path):
    # fmt: off
    for arguments in (
        ["generate", "--store", place.path, "--generator", tiny_generator, "--teacher", tiny_teacher, "--images", 48,
         "--block-size", 16, "--steps", 2, "--sampler", "ddim", "--views", "rrc:2", "--device", "cpu"],
        ["label", "--store", place.path, "--teacher", other_teacher, "--codec", "klt:0.5", "--device", "cpu"],
        ["train-student", "--store", place.path, "--labels", "tiny-resnet,tiny-efficientnet", "--epochs", 1,
         "--batch-size", 16, "--student", "test_resnet", "--out", tmp_path / "run", "--device", "cpu"],
        ["evaluate", tmp_path / "run" / "student", "--data", place.path, "--device", "cpu"],
        ["codec-report", "--store", place.path, "--teacher", tiny_teacher, "--codec", "float16", "--device", "cpu"],
        ["inspect", place.path],
        ["verify", place.path, "--rerun-teacher", 1, "--regenerate", 1, "--device", "cpu"],
    ):
        done = dmkd(*arguments)
        assert done.exit_code == 0, (arguments[0], done.output)
    # fmt: on
    assert sorted(open_store(place.path).labels) == ["tiny-efficientnet", "tiny-resnet"]


def test_importing_into_a_bucket(place, tmp_path):
    from PIL import Image

    for number in range(32):
        file = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(file)
    done = dmkd("import", tmp_path / "photos", "--store", place.path, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["complete"] and len(open_store(place.path).images[:]) == 32


def test_the_endpoint_option_says_which_server(place, monkeypatch, forgetful):
    filled_store(place.path, num_images=16)
    good = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    assert dmkd("inspect", place.path, "--endpoint-url", good).exit_code == 0


def test_workers_on_other_machines_are_told_the_endpoint(s3_bucket, monkeypatch):
    order = WorkOrder("s3://b/s.zarr", (), "cpu", None, None)
    there = pickle.loads(pickle.dumps(order))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere")
    with pytest.raises(StoreError):  # it has no such bucket, but it asks the right server for it
        BlockWorker(there)
    assert os.environ["AWS_ENDPOINT_URL"] == order.endpoint_url != "http://elsewhere"


# Requests


def test_a_block_costs_one_put_a_chunk_and_a_listing_no_request_a_chunk(place, requests):
    store = new_store(place.path, image_shape=(256, 256, 3), block_size=64, num_images=192)
    store.write_block(0, **block_arrays(store, 0))
    requests.clear()
    store.write_block(1, **block_arrays(store, 1))  # 12.6 MB of images
    # Two ask for what would be written over: images, and labels that other images may have had.
    assert [method for method, _ in requests] == ["HEAD"] * 2 + ["PUT"] * 7
    assert "images/c.1" in requests[-1][1], "the marker comes last"
    requests.clear()
    assert store.missing_blocks() == [2]
    assert [method for method, _ in requests] == ["GET"]


def test_blocks_beyond_the_first_thousand_are_listed(place, requests):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    store = new_store(place.path, num_images=2500, block_size=1)
    bucket, _, prefix = place.path.removeprefix("s3://").partition("/")
    for block in range(2400):  # 2400 requests would take a minute
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, f"{prefix}/class_ids/c.{block}", b"chunk")
    requests.clear()
    assert store.chunks.missing("class_ids") == list(range(2400, 2500))
    assert len(requests) == 3


@pytest.fixture
def requests(s3_bucket, monkeypatch):
    """(method, path) of every request that moto's server has answered."""
    from werkzeug.serving import WSGIRequestHandler

    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(
        WSGIRequestHandler, "log_request", lambda self, *_: seen.append((self.command, self.path)), raising=True
    )
    return seen
