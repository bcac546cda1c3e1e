"""``--config FILE``: every command takes its options from a file, as the command line would."""

import json

import click
import pytest
from click.testing import CliRunner
from conftest import filled_store

from dmkd.cli.config import OPTION
from dmkd.cli.main import COMMANDS, main


def run(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def option_of(name):
    """One option of a command, and a value that it takes."""
    command = main.get_command(click.Context(main), name)
    for option in command.params:
        if isinstance(option, click.Option) and option.name not in (OPTION, "help", "host"):
            key = max(option.opts, key=len).removeprefix("--")
            if option.is_flag:
                return option, key, True
            if isinstance(option.type, click.types.IntParamType):
                return option, key, 7
            if type(option.type) is click.types.StringParamType and option.callback is None:
                return option, key, ["some"] if option.multiple else "some"
    raise AssertionError(f"{name} has no option to try")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_gets_what_a_file_says_as_it_gets_what_the_line_says(name, tmp_path, monkeypatch):
    command = main.get_command(click.Context(main), name)
    option, key, value = option_of(name)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({name: {key: value}}))
    got = []
    monkeypatch.setattr(command, "callback", lambda **given: got.append(given))
    # What has no default must be given, in whichever way.
    needed = []
    for parameter in command.params:
        if parameter.required and parameter is not option:
            word = parameter.type.choices[0] if isinstance(parameter.type, click.Choice) else "x"
            needed += [max(parameter.opts, key=len), word] if isinstance(parameter, click.Option) else [word]
    values = value if isinstance(value, list) else [value]
    line = [f"--{key}"] if option.is_flag else [word for one in values for word in (f"--{key}", one)]
    by_file, by_line = run(name, *needed, "--config", file), run(name, *needed, *line)
    assert (by_file.exit_code, by_line.exit_code) == (0, 0), by_file.output + by_line.output
    assert got[0] == got[1] and got[0][option.name] not in (None, ())


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_takes_what_is_no_option_of_its(name, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('beauty = "much"\n')
    result = run(name, "--config", file)
    assert result.exit_code == 2 and f"dmkd {name} has no option for" in result.output


@pytest.fixture
def store(tmp_path):
    return filled_store(tmp_path / "s.zarr")


def test_a_file_serves_several_commands_and_the_line_wins(store, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(
        f'store = "{store.path}"\n[view]\ncount = 4\nout = "{tmp_path}/a.png"\n[train-student]\nepochs = 3\n'
    )
    assert json.loads(run("inspect", "--config", file, "--json").output)["images"] == 100
    assert run("view", "--config", file).exit_code == 0 and (tmp_path / "a.png").exists()
    assert run("view", "--config", file, "--out", tmp_path / "b.png").exit_code == 0 and (tmp_path / "b.png").exists()
    assert run("inspect", tmp_path / "other.zarr", "--config", file).exit_code == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("count = 2.5", "count must be a whole number, not 2.5"),
        ("count = true", "count must be a whole number, not true"),
        ("count = [1, 2]", "count must be a whole number, not [1, 2]"),
        ('open = "yes"', "open must be true or false"),
        ("temperature = 'hot'", "temperature must be a number"),
        ("by = false", "by must be a text, not false"),
        ("count = 0", "0 is not in the range"),
        ("[viewing]\ncount = 2", "a table [viewing]"),
        ("open_it = true", "has no option for"),
        ("colums = 3", "Did you mean columns?"),
        ("config = 'other.toml'", "has no option for"),
        ("count = ", "neither TOML nor JSON"),
        ("view = 3", "has no option for"),
    ],
)
def test_what_can_not_be_is_refused_in_a_sentence(store, tmp_path, text, sentence):
    file = tmp_path / "config.toml"
    file.write_text(text + "\n")
    result = run("view", store.path, "--config", file)
    assert result.exit_code == 2 and sentence in result.output and "Traceback" not in result.output


def test_arguments_are_called_as_the_usage_line_calls_them(store, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(f'store = "{store.path}"\n')
    assert run("tag", "--config", file).output == f"{store.path} has no tags.\n"
    file.write_text(f'stores = ["{store.path}"]\nseeds = 1\nval = "nowhere"\n')
    assert "nothing to evaluate on at nowhere" in run("compare", "--config", file).output
    assert "There is no store at other.zarr" in run("compare", "other.zarr", "--config", file).output


def test_a_flag_that_is_off_is_off(tmp_path, monkeypatch):
    command, got = main.get_command(click.Context(main), "generate"), []
    monkeypatch.setattr(command, "callback", lambda **given: got.append(given["compile"]))
    (tmp_path / "off.toml").write_text("compile = false\n")
    run("generate", "--config", tmp_path / "off.toml")
    run("generate", "--no-compile")
    run("generate", "--compile", "--config", tmp_path / "off.toml")
    run("generate")
    assert got == [False, False, True, None]


def test_a_file_that_is_not_there_is_refused(tmp_path):
    result = run("view", "--config", tmp_path / "none.toml")
    assert result.exit_code == 2 and "none.toml can't be read" in result.output


def test_the_help_is_shown_whatever_the_file(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("beauty = 1\n")
    assert "--config FILE" in run("view", "--help").output
    assert run("view", "--help", "--config", file).exit_code == 0
