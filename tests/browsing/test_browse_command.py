"""``dmkd browse`` as a process: its address, what it answers, how it ends."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from conftest import filled_store

from dmkd.cli.main import main

DMKD = [sys.executable, "-m", "dmkd.cli.main"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("browse") / "s.zarr")


@contextmanager
def browsing(*arguments):
    process = subprocess.Popen(
        [*DMKD, "browse", *map(str, arguments), "--no-open"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Python takes no SIGINT if whoever started the tests ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


def got(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_page_and_its_answers_are_at_the_address_that_is_printed_and_it_ends_on_ctrl_c(store):
    with browsing(store.path) as (address, process):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{24}/", address)
        status, page = got(address)
        assert status == 200 and b'src="main.js"' in page
        status, found = got(address + "ask/stores")
        assert status == 200 and json.loads(found)[0]["num_images"] == 100
        assert got(address + "main.js")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0 and process.stderr.read() == ""


def test_two_at_once_have_two_ports_and_two_secrets(store):
    with browsing(store.path) as (one, _), browsing(store.path, "--json") as (line, _):
        other = json.loads(line)["address"]
        assert one.split("/")[2] != other.split("/")[2] and one.split("/")[3] != other.split("/")[3]
        secret = one.split("/")[3]
        assert got(f"http://{other.split('/')[2]}/{secret}/")[0] == 403


def test_a_port_that_is_taken_is_refused(store):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["browse", store.path, "--no-open", "--port", str(port)])
    assert result.exit_code == 2 and f"port {port}" in result.output and "another --port" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["none.zarr"], 2, "There is no store at none.zarr"),
        ([], 2, "No store is named"),
        (["folder"], 2, "is not a dmkd store"),
        (["s.zarr", "--host", "256.1.1.1"], 2, "No page can be served at 256.1.1.1"),
    ],
)
def test_what_can_not_be_served_is_said_in_a_sentence(arguments, code, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "hello.txt").touch()
    if "s.zarr" in arguments:
        filled_store("s.zarr")
    result = CliRunner().invoke(main, ["browse", *arguments, "--no-open"])
    assert result.exit_code == code and sentence in result.output and "Traceback" not in result.output


def test_without_its_packages_it_says_what_to_install(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "dmkd.browsing.server", raising=False)
    result = CliRunner().invoke(main, ["browse", store.path, "--no-open"])
    assert result.exit_code == 2 and "pip install 'dmkd[browse]'" in result.output


def test_a_folder_of_runs_that_there_is_not_is_refused(store, tmp_path):
    done = CliRunner().invoke(main, ["browse", store.path, "--run", str(tmp_path / "nowhere"), "--no-open"])
    assert done.exit_code == 2 and f"--run: there is no folder {tmp_path}/nowhere." in done.output


def test_the_page_is_told_of_runs_and_training_runs(store, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/metrics.jsonl").write_text('{"epoch": 1, "loss": 0.5}\n')
    with browsing(store.path, "--run", tmp_path) as (address, _):
        assert json.loads(got(address + "ask/runs?store=0")[1]) == {"runs": [], "problem": None}
        (run,) = json.loads(got(address + "ask/training")[1])
        assert run["name"] == f"{tmp_path.name}/mine" and run["by_epoch"] == {"epoch": [1], "loss": [0.5]}
