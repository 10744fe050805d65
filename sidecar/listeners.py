"""Sockets of the doors: bound once, by the process that starts, and shared with its workers."""

import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from sidecar.config import ConfigError, split_address

BACKLOG = 1024
SOCKET_MODE = 0o660


@dataclass(frozen=True, slots=True)
class Listeners:
    """Listening sockets of one process; Unix sockets are the same file in every worker."""

    grpc: socket.socket
    redis: socket.socket
    grpc_unix: socket.socket | None
    redis_unix: socket.socket | None


def bind_tcp(key: str, address: str, *, share: bool) -> socket.socket:
    """Listen on host:port. `share`: other workers will bind the same port (SO_REUSEPORT).

    Raises ConfigError naming `key` when the port is taken, even by a process that shares its own.
    """
    host, port = split_address(key, address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if share and port:
        _try_bind(key, family, host, port, share=False).close()
    bound = _try_bind(key, family, host, port, share=share)
    bound.listen(BACKLOG)
    bound.setblocking(False)
    return bound


def join_tcp(address: str) -> socket.socket:
    """Bind a port that the first process already shares."""
    host, port = split_address("worker", address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    joined = _try_bind("worker", family, host, port, share=True)
    joined.listen(BACKLOG)
    joined.setblocking(False)
    return joined


def _try_bind(
    key: str, family: socket.AddressFamily, host: str, port: int, *, share: bool
) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"configuration: {key}: port {port} on {host} is in use; stop who holds it"
                f" (ss -ltnp 'sport = :{port}'), or set {key} to another port (0: a free one)"
            ) from None
        raise ConfigError(f"configuration: {key} is {host}:{port}: {error.strerror}") from None
    return bound


def bind_unix(key: str, path: str) -> socket.socket | None:
    """Listen on a Unix socket with mode 0660; a dead file of an earlier process is replaced."""
    if not path:
        return None
    _remove_dead(key, path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(path)
        Path(path).chmod(SOCKET_MODE)
    except OSError as error:
        bound.close()
        raise ConfigError(f"configuration: {key} is {path}: {error.strerror or error}") from None
    bound.listen(BACKLOG)
    bound.setblocking(False)
    return bound


def _remove_dead(key: str, path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"configuration: {key} is {path}, which exists and is not a socket")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)  # a living process that accepts nobody must not hold us up
    try:
        probe.connect(path)
    except (ConnectionRefusedError, FileNotFoundError):
        Path(path).unlink(missing_ok=True)
        return
    except BlockingIOError:
        pass  # its backlog is full: it lives
    except OSError as error:
        raise ConfigError(f"configuration: {key} is {path}: {error.strerror or error}") from None
    finally:
        probe.close()
    raise ConfigError(
        f"configuration: {key} is {path}, on which a living process listens; stop it, or set"
        f" {key} to another path"
    )


def address_of(bound: socket.socket) -> str:
    """host:port really bound."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def adopt_unix(descriptor: int) -> socket.socket | None:
    """A listening Unix socket inherited from the first process; -1: none."""
    if descriptor < 0:
        return None
    os.set_inheritable(descriptor, False)
    inherited = socket.socket(fileno=descriptor)
    inherited.setblocking(False)
    return inherited
