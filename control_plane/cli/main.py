"""The entry of `dabba`: every command, and the one place that prints an error."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from control_plane.cli.cluster import doctor, map_app, sidecars, status
from control_plane.cli.compact import compact
from control_plane.cli.data import delete, get, put, where
from control_plane.cli.dev import dev
from control_plane.cli.errors import EXIT_FAILED, CommandError
from control_plane.cli.hints import hints
from control_plane.cli.keyspaces import keyspace_app
from control_plane.cli.nodes import node_app
from control_plane.cli.repair import repair

EXIT_INTERRUPTED = 130  # as a shell reports SIGINT

app = typer.Typer(
    name="dabba",
    help="Dabbawala: every read and write straight to the replicas that own the key.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"dabba {version('dabbawala')}\n")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


@app.callback()
def _options(version: Version = False) -> None:
    pass


for command in (dev, status, where, get, put, delete, sidecars, hints, repair, compact, doctor):
    app.command(command.__name__)(command)
app.add_typer(keyspace_app, name="keyspace")
app.add_typer(node_app, name="node")
app.add_typer(map_app, name="map")


def run(arguments: Sequence[str]) -> int:
    """Runs one command; answers its exit status. Errors become one line on standard error."""
    try:
        result = app(args=list(arguments), prog_name="dabba", standalone_mode=False)
        sys.stdout.flush()
    except CommandError as error:
        return _fail(error.line(), error.exit_code)
    except typer.TyperException as error:
        return _fail(_usage_line(error), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return result if isinstance(result, int) else 0


def _fail(line: str, exit_code: int) -> int:
    if line:
        sys.stderr.write(f"dabba: {line}\n")
    return exit_code


def _usage_line(error: typer.TyperException) -> str:
    """A mistake on the command line, with the command that shows how it is meant."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "dabba"
    message = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    return f"{message}; see: {path} --help" if message else ""


def main() -> None:
    """What the installed command `dabba` calls."""
    sys.exit(run(sys.argv[1:]))
