"""The command line: ``lora-graph COMMAND``. Exit code 0 only on success, 2 for bad input; errors are one clear line."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import click

from lora_graph.cli.checking import check
from lora_graph.cli.commands import demo, export, run
from lora_graph.cli.diffing import diff
from lora_graph.cli.importing import import_adapter
from lora_graph.cli.inspecting import inspect
from lora_graph.cli.profiling import profile
from lora_graph.cli.training import adapt, merge, train
from lora_graph.errors import MergeError, TrainingError
from lora_graph.version import __version__

EXPECTED = (ValueError, TypeError, OSError, MergeError, TrainingError)
"""What bad input raises. Anything else is a fault of this program and shows itself as one."""


class OneLineErrors(click.Group):
    """A group whose commands report errors in one line, or with ``--debug`` in full."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            raise _in_one_line(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _in_one_line(error) from error
        except EXPECTED as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            else:
                click.echo(f"error: {_line(error)}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(130)


class WrongUsage(click.ClickException):
    """A command that was called in a way it does not know; shown in one line."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file, err=True)


def _in_one_line(error: click.UsageError) -> click.ClickException:
    if type(error).show is not click.UsageError.show:  # it shows the help
        return error
    command = error.ctx.command_path if error.ctx else "lora-graph"
    return WrongUsage(f"{' '.join(error.format_message().split())} (see {command} --help)")


def _line(error: Exception) -> str:
    """What went wrong in one line; an error of the system as the file and the reason."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.version_option(__version__, prog_name="lora-graph")
def main(debug: bool) -> None:
    """Put LoRA-family adapters on layers, train them, merge them, and ship them as ONNX."""


for command in (demo, adapt, import_adapter, train, merge, export, run, check, inspect, diff, profile):
    main.add_command(command)
