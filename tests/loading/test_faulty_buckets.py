"""Buckets that fail, slow down or change while they are read: the run goes on, or ends with one sentence and can be resumed."""

import http.client
import http.server
import os
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import block_arrays, filled_store

from dmkd.cli.main import main
from dmkd.loading import Loader
from dmkd.stores import StoreError, StoreUnreachableError, open_store
from dmkd.stores.convert import convert
from dmkd.stores.pack_copy import pack_copy
from dmkd.stores.packing import fold_packed, pack
from dmkd.stores.trees import bucket as object_storage
from dmkd.stores.trees import packed_remote


class Proxy:
    """Before an S3 server. ``fault`` is asked for each GET of an object (the number of those before it): what to do instead of
    answering rightly, None: nothing."""

    def __init__(self, server: str) -> None:
        self.fault = lambda number: None
        self.objects: list[str] = []
        outer, target = self, urlsplit(server).netloc

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = None
                if self.command == "GET" and "list-type" not in self.path:
                    fault = outer.fault(len(outer.objects))
                    outer.objects.append(self.path)
                if isinstance(fault, int):
                    code = {503: "SlowDown", 400: "ExpiredToken"}[fault]
                    self.reply(fault, {}, f"<Error><Code>{code}</Code><Message>so it is</Message></Error>".encode())
                elif fault == "drop":
                    self.close_connection = True
                else:
                    connection = http.client.HTTPConnection(target)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    headers = {
                        k: v for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")
                    }
                    content = answer.read()
                    connection.close()
                    if fault == "end early":
                        content = content[: len(content) // 2]
                        self.close_connection = True
                    self.reply(answer.status, headers, content)

            def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response_only(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def proxy(s3_bucket, monkeypatch):
    proxy = Proxy(os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setattr(object_storage, "PATIENCE", object_storage.FIRST_PATIENCE)
    monkeypatch.setattr(packed_remote, "SPAN_BYTES", 1)  # many requests, of a block each
    yield proxy
    proxy.server.shutdown()
    proxy.server.server_close()


@pytest.fixture(params=["packed", "loose"])
def store(request, s3_bucket, tmp_path, proxy, monkeypatch):
    """7 blocks of 16 images in a bucket; three a shard."""
    for module in ("dmkd.stores.packing", "dmkd.stores.trees.shards"):
        monkeypatch.setattr(f"{module}.choose_blocks_per_shard", lambda chunk_bytes, blocks: 3)
    made, path = filled_store(tmp_path / "made.zarr", num_images=100), f"{s3_bucket}/{tmp_path.name}/s.zarr"
    return pack_copy(made, path) if request.param == "packed" else convert(made, path)


def make(store, folder):
    return Loader(
        open_store(store.path), labels={"teacher": 1.0}, batch_size=10, memory=20_000, resident=None, threads=2,
        cache=folder, notice=pytest.fail,
    )  # fmt: skip


def epoch(loader, number=0):
    return [
        np.asarray(part).tobytes()
        for batch in loader.epoch(number)
        for part in (batch.ids, batch.images, batch.class_ids, batch.views, batch.logits(1))
    ]


@pytest.mark.parametrize("store", ["packed"], indirect=True)
@pytest.mark.parametrize("fault", [503, "drop", "end early"])
def test_what_passes_is_not_noticed(store, proxy, tmp_path, fault):
    expected = epoch(make(store, None))
    proxy.objects.clear()
    began = []

    def passing(number):
        if number < 12 or number % 2:
            return None
        began.append(time.monotonic())
        return fault if time.monotonic() - began[0] < 1 else None

    proxy.fault = passing
    for cache in (None, tmp_path / "cache"):
        assert epoch(make(store, cache)) == expected
        began.clear()
    assert len(proxy.objects) > 12


@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        (400, StoreError, "can't be read: access is denied .ExpiredToken.; check AWS_ACCESS_KEY_ID"),
        (503, StoreUnreachableError, "answers 503 SlowDown; once it is back, rerun the same command to resume"),
        ("drop", StoreUnreachableError, "once it is back, rerun the same command to resume"),
        ("end early", StoreUnreachableError, "rerun the same command to resume"),
    ],
)
@pytest.mark.parametrize("store", ["packed"], indirect=True)
def test_what_does_not_pass_is_told_and_the_next_run_reads_what_is_left(
    store, proxy, tmp_path, monkeypatch, fault, error, told
):
    monkeypatch.setattr(object_storage, "PATIENCE", object_storage.FIRST_PATIENCE / 10)
    expected = epoch(make(store, None))
    proxy.objects.clear()
    assert epoch(make(store, tmp_path / "whole")) == expected
    all_of_it = len(proxy.objects)
    proxy.objects.clear()
    proxy.fault = lambda number: fault if number > 0.7 * all_of_it else None
    with pytest.raises(error, match=told) as raised:
        epoch(make(store, tmp_path / "cache"))
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value)
    proxy.fault = lambda number: None
    proxy.objects.clear()
    assert epoch(make(store, tmp_path / "cache")) == expected
    assert len(proxy.objects) < all_of_it


@pytest.mark.parametrize("cached", [False, True])
def test_blocks_that_change_in_mid_epoch(store, tmp_path, cached):
    """Each batch holds what was there before or what is there after; the next epoch what is there after."""
    loader = make(store, tmp_path / "cache" if cached else None)
    running = loader.epoch(0)
    next(running)
    writer = open_store(store.path)
    for block in range(3):
        writer.write_block(block, **block_arrays(writer, block, seed=99))
    (pack if writer.chunks.tree.packed("images") is None else fold_packed)(writer)
    writer.touch()
    old = filled_store(tmp_path / "old.zarr", num_images=100)
    before, after = old.images[:], open_store(store.path).images[:]
    for batch in running:
        for image, number in zip(np.asarray(batch.images), batch.ids, strict=True):
            assert (image == before[number]).all() or (image == after[number]).all()
    if cached:
        assert epoch(loader, 1) == epoch(make(store, None), 1)


def test_a_command_whose_credentials_expire_ends_and_can_be_run_again(s3_bucket, proxy, tmp_path):
    store = pack_copy(filled_store(tmp_path / "made.zarr", num_images=100), f"{s3_bucket}/{tmp_path.name}/s.zarr")
    # fmt: off
    words = ["train-student", "--store", store.path, "--student", "test_resnet", "--epochs", "2", "--batch-size", "20",
             "--memory", "0.00002", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    # fmt: on
    proxy.objects.clear()
    proxy.fault = lambda number: 400 if number > 60 else None
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 1 and "access is denied (ExpiredToken)" in told.stderr, (told.output, len(proxy.objects))
    assert "Traceback" not in told.output and told.stderr.strip().splitlines()[-1].startswith("Error:")
    proxy.fault = lambda number: None
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 0, again.output
