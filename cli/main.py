"""The command ``dmkd``: the list of commands, and how errors are reported."""

import os
from importlib import import_module
from typing import Any

import click

from dmkd.stores.errors import DmkdError

from .config import with_config

# Threads that wait for each other by spinning hold the cores that others need: on two cores shared with another job,
# generation was 5 times slower than with threads that sleep. OpenMP reads this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# In the order of a first use. A command's module is imported when it is called or its help is shown;
# none of them imports torch before its work begins.
COMMANDS = {
    "demo": "dmkd.cli.commands.demo",
    "plan": "dmkd.cli.commands.plan",
    "generate": "dmkd.cli.commands.generate",
    "generators": "dmkd.cli.commands.generators",
    "import": "dmkd.cli.commands.import_images",
    "label": "dmkd.cli.commands.label",
    "train-student": "dmkd.cli.commands.train_student",
    "distil": "dmkd.cli.commands.distil",
    "compare": "dmkd.cli.commands.compare",
    "evaluate": "dmkd.cli.commands.evaluate",
    "export-student": "dmkd.cli.commands.export_student",
    "teachers": "dmkd.cli.commands.teachers",
    "codec-report": "dmkd.cli.commands.codec_report",
    "columns": "dmkd.cli.commands.columns",
    "select": "dmkd.cli.commands.select",
    "inspect": "dmkd.cli.commands.inspect",
    "browse": "dmkd.cli.commands.browse",
    "view": "dmkd.cli.commands.view",
    "card": "dmkd.cli.commands.card",
    "export": "dmkd.cli.commands.export",
    "verify": "dmkd.cli.commands.verify",
    "tag": "dmkd.cli.commands.tag",
    "convert": "dmkd.cli.commands.convert",
    "pack": "dmkd.cli.commands.pack",
    "push": "dmkd.cli.commands.push",
    "pull": "dmkd.cli.commands.pull",
}


class Told(click.ClickException):
    """An error reported in one sentence, with the exit code of its kind."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: Any = None) -> None:
        click.echo(click.style("Error: ", fg="red", bold=True) + self.format_message(), err=True)


class Commands(click.Group):
    """Commands that are imported when they are needed."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return with_config(import_module(COMMANDS[name]).command, COMMANDS) if name in COMMANDS else None

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = arguments[0]
        if name not in COMMANDS and not name.startswith("-") and not context.resilient_parsing:
            from difflib import get_close_matches

            near = [one for one in COMMANDS if one.startswith(name)] or get_close_matches(name, COMMANDS)
            meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            context.fail(f"No such command {name!r}.{meant}")
        return super().resolve_command(context, arguments)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except DmkdError as error:
            raise Told(str(error), error.exit_code) from error
        except KeyboardInterrupt as error:
            from dmkd.runtime.interrupts import Terminated

            # 128 + the signal's number, as a shell has it.
            code = 143 if isinstance(error, Terminated) else 130
            raise Told("Interrupted. What is finished is kept; rerun the same command to resume.", code) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if os.environ.get("DMKD_DEBUG"):
                raise
            from dmkd.runtime.failures import named_line

            raise Told(f"{named_line(error)} (unexpected; set DMKD_DEBUG=1 to see where)", 1) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dmkd")
def main() -> None:
    """Knowledge distillation from diffusion images.

    A diffusion model makes labelled images, a teacher writes its logits beside them into one store, and a student
    learns from the store alone.

    \b
      dmkd demo                              all of it on a laptop, in minutes
      dmkd generate --store imnet.zarr       images and their first labels
      dmkd label --teacher resnet34.tv_in1k  another teacher's labels
      dmkd train-student                     a student, from the files alone
    """


if __name__ == "__main__":
    main()
