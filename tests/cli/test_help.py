"""Help that can be scanned, and a hand for whoever mistypes a command."""

import re

import click
import pytest
from click.testing import CliRunner

from dmkd.cli.main import COMMANDS, main

MANY = 12  # options that still can be scanned without headings


def help_of(command):
    return CliRunner().invoke(main, [command, "--help"]).output


@pytest.mark.parametrize("command", COMMANDS)
def test_many_options_stand_under_headings_the_everyday_ones_first_and_each_once(command):
    options = [one for one in main.get_command(None, command).params if isinstance(one, click.Option)]
    text = help_of(command)
    headings = re.findall(r"^([A-Z][^:\n]*):$", text, re.MULTILINE)
    sections = re.split(r"^[A-Z][^:\n]*:$", text, flags=re.MULTILINE)[1:]
    if len(options) > MANY:
        assert headings[0] == "Main options" and headings[-1] == "Other options" and len(headings) >= 3
        assert len(set(headings)) == len(headings)
        assert all(1 <= len(re.findall(r"^  -", section, re.MULTILINE)) <= 15 for section in sections)
    for option in options:
        assert len(re.findall(rf"^  {re.escape(option.opts[0])}\b(?!-)", "".join(sections), re.MULTILINE)) == 1, (
            option.name
        )


def test_what_everyone_needs_is_among_the_main_options():
    main_options = help_of("generate").split("Main options:")[1].split("\n\n")[0]
    for option in ("--store", "--generator", "--images", "--teacher", "--steps", "--guidance", "--seed"):
        assert f"  {option} " in main_options
    main_options = help_of("train-student").split("Main options:")[1].split("\n\n")[0]
    for option in ("--store", "--student", "--labels", "--epochs", "--val", "--out"):
        assert f"  {option} " in main_options


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("generat", "'generate' or 'generators'"),
        ("train", "'train-student'"),
        ("expor", "'export-student' or 'export'"),
        ("xyz", None),
    ],
)
def test_a_mistyped_command_is_asked_back(typed, meant):
    done = CliRunner().invoke(main, [typed, "--store", "s.zarr"])
    question = f" Did you mean {meant}?" if meant else ""
    assert done.exit_code == 2 and f"Error: No such command {typed!r}.{question}\n" in done.stderr
