"""What a shell offers at the tab key: through click's own classes, and as the shell calls the command."""

import os
import subprocess
import sys

import click
import pytest
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from dmkd.cli import completion
from dmkd.cli.main import COMMANDS, main

HEAVY = ("torch", "ray", "zarr", "timm", "diffusers", "rich", "numpy")


def offered(*words):
    """(value, kind) of what is offered for the last of these words, which is not finished yet."""
    *finished, incomplete = words
    found = BashComplete(main, {}, "dmkd", "_DMKD_COMPLETE").get_completions(list(finished), incomplete)
    return [(item.value, item.type) for item in found]


def values(*words):
    found = offered(*words)
    assert all(kind == "plain" for _, kind in found)
    return [value for value, _ in found]


def test_commands_and_options_are_offered():
    assert values("") == list(COMMANDS)
    assert values("exp") == ["export-student", "export"]
    assert "--sampler" in values("generate", "--s")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("generate", "--sampler", "d"), ["ddpm", "ddim", "dpm++"]),
        (("plan", "--sampler", "p"), ["pipeline"]),
        (("plan", "--dtype", ""), ["float32", "bfloat16", "float16", "float8"]),
        (("generate", "--store", "s.zarr", "--image-codec", ""), ["raw", "webp", "jpeg:95"]),
        (("label", "--codec", "f"), ["float16", "features"]),
        (("label", "--views", "rrc:8+"), ["rrc:8+cutmix", "rrc:8+mixup"]),
        (("train-student", "--preset", ""), ["dm-kd", "cutmix-t20", "dm-kd-cifar"]),
        (("compare", "a.zarr", "--preset", "c"), ["cutmix-t20"]),
        (("train-student", "--loss", ""), ["kl", "dkd", "hard", "argmax", "standardised", "dist", "gift"]),
        (("train-student", "--schedule", "c"), ["cosine", "constant"]),
        (("export", "--format", ""), ["imagefolder", "webdataset", "parquet"]),
        (("export", "--views", "a"), ["all"]),
        (("view", "--by", "a"), ["agreed"]),
        (("codec-report", "--codec", "k"), ["klt:0.5"]),
        (("export-student", "run", "--which", ""), ["student", "best"]),
        (("generate", "--follow", "run", "--score", ""), ["kl:4", "entropy:1", "learnability:1"]),
        (("distil", "--score", "k"), ["kl:4"]),
        (("distil", "--loss", "d"), ["dkd", "dist"]),
    ],
)
def test_values_that_are_known_are_offered(words, expected):
    assert values(*words) == expected


def test_what_is_offered_is_taken():
    from dmkd.stores.image_codecs import parse_image_codec
    from dmkd.views.policy import parse_policy

    assert [str(parse_image_codec(text)) for text in completion.IMAGE_CODECS] == list(completion.IMAGE_CODECS)
    for text in completion.VIEWS:
        parse_policy(text)


PATHS = {
    "PATH": "file",
    "STORE": "file",
    "STORES...": "file",
    "FILE": "file",
    "FILE.png": "file",
    "DATA": "file",
    "FOLDER": "dir",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_is_a_path_is_completed_as_one(command):
    parsed = main.get_command(None, command)
    context = click.Context(parsed)
    for parameter in parsed.params:
        if isinstance(parameter, click.Argument) and parameter.metavar in ("SELECTION", "HUB", "[NAME]"):
            continue
        if isinstance(parameter, click.Argument):
            kind = "file"
        elif parameter.metavar in PATHS:
            kind = PATHS[parameter.metavar]
        else:
            continue
        assert [item.type for item in parameter.shell_complete(context, "im")] == [kind], parameter.name
    if "--store" in {option for parameter in parsed.params for option in parameter.opts}:
        assert offered(command, "--store", "im") == [("im", "file")]


@pytest.mark.parametrize(
    "environment",
    [
        {"_DMKD_COMPLETE": "bash_source"},
        {"_DMKD_COMPLETE": "bash_complete", "COMP_WORDS": "dmkd ", "COMP_CWORD": "1"},
        {"_DMKD_COMPLETE": "zsh_complete", "COMP_WORDS": "dmkd compare --preset ", "COMP_CWORD": "3"},
        {"_DMKD_COMPLETE": "bash_complete", "COMP_WORDS": "dmkd generate --sampler ", "COMP_CWORD": "3"},
        {"_DMKD_COMPLETE": "bash_complete", "COMP_WORDS": "dmkd plan --dtype ", "COMP_CWORD": "3"},
        {"_DMKD_COMPLETE": "fish_complete", "COMP_WORDS": "dmkd view --by ", "COMP_CWORD": ""},
    ],
)
def test_a_shell_need_not_wait(environment):
    code = "import sys; from dmkd.cli.main import main\ntry: main(prog_name='dmkd')\nexcept SystemExit: pass\n"
    code += f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    *told, imported = done.stdout.splitlines()
    assert told and imported == "[]" and not done.stderr


@pytest.mark.parametrize("shell", [BashComplete, ZshComplete, FishComplete])
def test_every_shell_gets_a_script(shell):
    assert "_DMKD_COMPLETE" in shell(main, {}, "dmkd", "_DMKD_COMPLETE").source()
