"""Who gets nothing from the page: whoever has not its address, other names of this machine, other pages, paths out of it."""

import json
import random
import socket
import threading
import time
from http.client import HTTPConnection
from urllib.parse import quote

import pytest
from conftest import filled_store

pytest.importorskip("uvicorn", reason="needs uvicorn (pip install 'dmkd[browse]')")

import uvicorn

from dmkd.browsing.desk import Desk
from dmkd.browsing.server import make_app
from dmkd.stores import open_store

TOKEN = "a-secret-word"
HERE = "127.0.0.1"
SAVED = json.dumps({"name": "mine", "rule": "agree", "judge": "teacher"})
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("secured") / "s.zarr")


@pytest.fixture(scope="module")
def port(store):
    desk = Desk([store.path])
    desk.follow()
    with socket.socket() as listening:
        listening.bind((HERE, 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(make_app(desk, TOKEN), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture
def ask(port):
    """A request as it stands, its path not tidied -> status, headers, body."""

    def ask(path, method="GET", body=None, **headers):
        connection = HTTPConnection(HERE, port, timeout=30)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(None if body is None else body.encode())
        answer = connection.getresponse()
        found = answer.status, dict(answer.headers.items()), answer.read()
        connection.close()
        return found

    return ask


def test_whoever_has_the_address_gets_the_page_and_its_answers(ask, port):
    for host in (f"{HERE}:{port}", f"localhost:{port}"):
        assert ask(f"/{TOKEN}/", Host=host)[0] == 200
        assert ask(f"/{TOKEN}/ask/stores", Host=host)[0] == 200


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "%00", "..", "é"])
def test_without_the_token_nothing_is_told(ask, token):
    for rest in ("", "main.js", "ask/stores", "ask/thumbs?ids=1&size=32", "vendor/preact.js"):
        status, _, body = ask(f"/{quote(token)}/{rest}")
        assert status in (403, 404) and b"zarr" not in body and b"import" not in body, (rest, body)
    assert ask("/ask/stores")[0] == 403
    assert ask("/")[0] == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8710", "127.0.0.1.evil.example", "192.168.0.1", "", "[::1", "*"]
)
def test_another_name_of_this_machine_gets_nothing(ask, host):
    """A page elsewhere whose name is made to lead here could else read along."""
    for path in (f"/{TOKEN}/", f"/{TOKEN}/ask/stores"):
        status, _, body = ask(path, Host=host)
        assert status == 400 and b"zarr" not in body


@pytest.mark.parametrize(
    "path",
    [
        "../server.py",
        "../../browsing/server.py",
        "%2e%2e/server.py",
        "..%2fserver.py",
        "%2e%2e%2f%2e%2e%2fserver.py",
        "..%5cserver.py",
        "vendor/../../server.py",
        "%252e%252e/server.py",
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "main.js%00.css",
        "file:///etc/passwd",
        "server.py",
        "vendor",
        "vendor/",
        ".",
    ],
)
def test_no_path_leads_out_of_the_page(ask, path):
    status, _, body = ask(f"/{TOKEN}/{path}")
    assert status in (403, 404)
    assert b"root:" not in body and b"import " not in body


def mine_is_saved(store):
    return "mine" in open_store(store.path).selections


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1", "", None])
def test_another_page_can_save_nothing(ask, port, store, origin):
    headers = {} if origin is None else {"Origin": origin}
    status, _, body = ask(f"/{TOKEN}/ask/save", "POST", SAVED, **headers, **JSON)
    assert status == 403 and json.loads(body) == {"error": "Only the page itself can save."}
    assert not mine_is_saved(store)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_link_saves(ask, port, store, method):
    asked = "name=mine&rule=agree&judge=teacher"
    status, *_ = ask(f"/{TOKEN}/ask/save?{asked}", method, Origin=f"http://{HERE}:{port}")
    assert status == 403
    assert not mine_is_saved(store)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_no_other_method_is_answered_and_no_other_origin_is_allowed(ask, method):
    status, headers, _ = ask(f"/{TOKEN}/ask/save", method, Origin="http://evil.example")
    assert status == 405
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_the_page_itself_saves(ask, port, tmp_path, store):
    status, _, body = ask(
        f"/{TOKEN}/ask/save", "POST", SAVED.replace("mine", "own"), Origin=f"http://{HERE}:{port}", **JSON
    )
    assert status == 200, body
    assert open_store(store.path).selections["own"] == "agree"


@pytest.mark.parametrize(
    "body", ["", "[]", "null", "{", '{"name": 1}', "\x00", '{"name": {"a": 1}, "rule": ["agree"]}']
)
def test_what_is_no_form_is_refused_in_a_sentence(ask, port, body):
    status, _, said = ask(f"/{TOKEN}/ask/save", "POST", body, Origin=f"http://{HERE}:{port}", **JSON)
    assert status == 400 and json.loads(said)["error"].endswith(".")


def test_no_answer_can_be_framed_or_taken_for_something_else_or_read_by_another_page(ask):
    for path in (
        "",
        "main.js",
        "style.css",
        "icon.svg",
        "nothing",
        "ask/stores",
        "ask/nothing",
        "ask/thumbs?ids=1&size=32",
    ):
        _, headers, _ = ask(f"/{TOKEN}/{path}", Origin="http://evil.example")
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy, path
        assert "http" not in policy.replace("'none'", "")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_whatever_is_asked_is_answered_in_a_sentence(store):
    """Drawn by chance: nothing that is asked ends in a traceback."""
    odd = [
        "",
        "0",
        "-1",
        "1e999",
        "nan",
        "9" * 30,
        "x",
        "\x00",
        "<b>",
        "../x",
        "@",
        "1,,2",
        "agree",
        "(" * 5000,
        "not " * 5000,
    ]
    usual = {
        "judge": "teacher",
        "versus": "teacher",
        "view_set": "views",
        "size": "32",
        "count": "5",
        "ids": "1,2,3",
        "id": "1",
    }
    names = [*usual, "store", "pair", "rule", "sort", "down", "start", "temperature", "classes"]
    desk, rng = Desk([store.path]), random.Random(0)
    desk.follow()
    while json.loads(desk.answer("query", {}).body)["of"] < store.num_images:
        time.sleep(0.05)
    for question in set(desk.questions) - {"save"}:
        for _ in range(150):
            asked = usual | {name: rng.choice(odd) for name in rng.sample(names, 2)}
            answer = desk.answer(question, asked)
            assert answer.status in (200, 400, 404), asked
            if answer.status != 200:
                assert json.loads(answer.body)["error"].rstrip().endswith((".", "`", "?", ")")), (asked, answer.body)
