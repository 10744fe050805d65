"""Where the servers are: what a flag, the environment, or a running `dabba dev` says."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from control_plane.cli.errors import EXIT_USAGE, CommandError
from control_plane.dev.context_file import DevContext, StaleContext, context_path, read_context


@dataclass(frozen=True, slots=True)
class Server:
    """A kind of server that commands talk to, and the ways to name one."""

    title: str
    flag: str
    variable: str
    context_field: str


CONTROL_PLANE = Server(
    "the control plane", "--control-plane", "DABBA_CONTROL_PLANE", "control_plane"
)
SIDECAR = Server("the sidecar", "--sidecar", "DABBA_SIDECAR", "sidecar")
SIDECAR_ADMIN = Server("the sidecar's admin door", "--admin", "DABBA_ADMIN", "admin")


def find_address(server: Server, flag: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The address to call, as `host:port` or `unix:/path`.

    Raises CommandError that names every way to give one when there is none.
    """
    given, source = flag, server.flag
    if given is None:
        given, source = environ.get(server.variable) or None, server.variable
    if given is not None:
        return checked_address(given, source)
    path = context_path(environ)
    context = read_context(path)
    if isinstance(context, DevContext):
        return str(getattr(context, server.context_field))
    raise CommandError(
        f"no address of {server.title}: {_why_no_context(context, path)}",
        f"start a cluster with: dabba dev, or give {server.flag} HOST:PORT,"
        f" or set {server.variable}",
    )


def _why_no_context(context: StaleContext | None, path: Path) -> str:
    if context is None:
        return f"no `dabba dev` is running (there is no {path})"
    return f"the `dabba dev` that wrote {path} is gone (pid {context.pid})"


def checked_address(address: str, source: str) -> str:
    """`address` itself when it may be called, else CommandError. `source`: who gave it."""
    if address.startswith("unix:") and len(address) > len("unix:"):
        return address
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and 0 < int(port) < 65536:
        return address
    raise CommandError(
        f"{source} is {address!r}, which is no address",
        "write HOST:PORT with a port from 1 to 65535, or unix:/PATH",
        exit_code=EXIT_USAGE,
    )
