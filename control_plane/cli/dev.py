"""`dabba dev`: a whole cluster on this host, for as long as the command runs."""

from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli.errors import EXIT_FAILED, EXIT_USAGE, CommandError
from control_plane.cli.options import Output, OutputFormat
from control_plane.dev.errors import BadOption, DevError
from control_plane.dev.options import (
    DATA_SETS,
    DEFAULT_NODES,
    DEFAULT_RUN_S,
    DEFAULT_ZONES,
    DevOptions,
)
from control_plane.dev.screen import Screen
from control_plane.dev.session import run
from control_plane.dev.valkey_binary import ServerBinaryMissing

Nodes = Annotated[
    int | None, typer.Option(help="How many Valkey servers.", show_default=str(DEFAULT_NODES))
]
Zones = Annotated[
    int | None, typer.Option(help="Over how many zones.", show_default=str(DEFAULT_ZONES))
]
Data = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Keep the data in this folder between runs.")
]
ZooKeeper = Annotated[
    str | None,
    typer.Option(
        "--zookeeper", metavar="HOSTS", help="Coordinate through this ZooKeeper: HOST:PORT,..."
    ),
]
Load = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help=f"Load and verify a data set, then read it: {', '.join(DATA_SETS)}."
    ),
]
RunFor = Annotated[
    float | None,
    typer.Option(
        "--for",
        metavar="SECONDS",
        help="How long to read what was loaded.",
        show_default=f"{DEFAULT_RUN_S:g}",
    ),
]
Exit = Annotated[
    bool, typer.Option("--exit", help="Stop after the load; status 0 only if nothing was wrong.")
]
Report = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the report of the load there.")
]


def dev(
    nodes: Nodes = None,
    zones: Zones = None,
    data: Data = None,
    zookeeper: ZooKeeper = None,
    load: Load = None,
    run_for: RunFor = None,
    exit_after: Exit = False,
    report: Report = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Start a local cluster: Valkey servers, control plane and sidecar. Ctrl-C stops it."""
    options = DevOptions(
        nodes=nodes,
        zones=zones,
        data=data,
        zookeeper=zookeeper,
        load=load,
        run_s=run_for,
        exit_after_load=exit_after,
        report=report,
    )
    try:
        status = run(options, Screen(as_json=output is OutputFormat.JSON))
    except BadOption as error:
        raise CommandError(str(error), "see: dabba dev --help", exit_code=EXIT_USAGE) from error
    except (DevError, ServerBinaryMissing) as error:
        raise CommandError(str(error), exit_code=EXIT_FAILED) from error
    except OSError as error:  # a disk that is full, a folder that is read-only
        raise CommandError(f"the local cluster was stopped: {error}", "mend that first") from error
    raise typer.Exit(status)
