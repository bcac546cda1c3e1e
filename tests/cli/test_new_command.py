"""A command is one file and one line in the list of commands: shown here with one that lies in this file alone."""

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner
from conftest import filled_store

from dmkd.cli.main import COMMANDS, main

TOY = '''
import click
from dmkd.cli.options import find_store, json_option, store_option
from dmkd.stores.errors import UsageError


@click.command("count", short_help="How many images there are.")
@store_option
@json_option
def command(store, as_json):
    """Count the images of a store."""
    from dmkd.stores import open_store

    count = open_store(find_store(store)).num_images
    if count > 100:
        raise UsageError("These are too many to count.")
    if not as_json:
        raise RuntimeError("the first line\\nand the second")
    click.echo(count)
'''


@pytest.fixture
def dmkd(tmp_path, monkeypatch):
    (tmp_path / "toy_count_command.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "count", "toy_count_command")
    return lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])


def test_it_is_listed_described_and_completed(dmkd):
    assert "count" in dmkd("--help").output and "How many images there are." in dmkd("--help").output
    assert "Count the images of a store." in dmkd("count", "--help").output
    complete = BashComplete(main, {}, "dmkd", "_DMKD_COMPLETE")
    assert [item.value for item in complete.get_completions([], "cou")] == ["count"]
    assert "--json" in [item.value for item in complete.get_completions(["count"], "--")]


def test_it_runs_and_its_errors_are_sentences_with_exit_codes(dmkd, tmp_path):
    few, many = filled_store(tmp_path / "few.zarr", num_images=32), filled_store(tmp_path / "many.zarr", num_images=112)
    done = dmkd("count", "--store", few.path, "--json")
    assert (done.exit_code, done.stdout) == (0, "32\n")
    refused = dmkd("count", "--store", many.path)
    assert (refused.exit_code, refused.stderr) == (2, "Error: These are too many to count.\n")
    failed = dmkd("count", "--store", few.path)
    assert failed.exit_code == 1 and failed.stderr.startswith("Error: RuntimeError: the first line (unexpected;")
    absent = dmkd("count", "--store", tmp_path / "nothing.zarr")
    assert (absent.exit_code, absent.stderr) == (2, f"Error: There is no store at {tmp_path}/nothing.zarr.\n")
