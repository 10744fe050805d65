"""Where the keys that sign session tokens come from.

`session_key_file` holds one key a line, the same on every sidecar of the cluster: the first signs,
all are accepted. Without it a sidecar makes a key of its own in its state_dir: its tokens outlive a
restart, and are refused by other sidecars, which say so. With neither there are no sessions.
"""

import os
import secrets
from pathlib import Path

from sidecar.config import ConfigError, SidecarConfig
from sidecar.core.sessions import LEAST_SECRET_BYTES, SessionKeys

_OWN_KEY = "session-key"
_MOST_BYTES = 1 << 16
MOST_KEYS = 16


def session_keys(config: SidecarConfig, worker: int) -> SessionKeys | None:
    """The keys of worker number `worker` (0: the first process, which makes what is missing).

    None: there are none. Raises ConfigError for a file that can not be used.
    """
    if config.session_key_file:
        path = Path(config.session_key_file)
    elif config.state_dir:
        path = Path(config.state_dir) / _OWN_KEY
        if worker == 0:
            _make(path)
    else:
        return None
    return SessionKeys(config.cluster, _read(path))


def _read(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            lines = file.read(_MOST_BYTES).splitlines()
    except OSError as error:
        raise ConfigError(_unusable(path, error.strerror or str(error))) from None
    keys = [line.strip() for line in lines if line.strip()]
    if not 1 <= len(keys) <= MOST_KEYS:
        raise ConfigError(_unusable(path, f"it holds {len(keys)} keys"))
    short = [number for number, key in enumerate(keys, 1) if len(key) < LEAST_SECRET_BYTES]
    if short:
        raise ConfigError(_unusable(path, f"key {short[0]} is too short"))
    return keys


def _unusable(path: Path, why: str) -> str:
    return (
        f"configuration: session_key_file is {path}: {why}. It holds 1 to {MOST_KEYS} keys, one a"
        f" line, each of at least {LEAST_SECRET_BYTES} bytes; make one with: openssl rand -hex 32"
    )


def _make(path: Path) -> None:
    """A key of our own, unless there is one: whole or not at all."""
    if path.exists():
        return
    new = path.with_suffix(".new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise ConfigError(f"configuration: state_dir takes no {path}: {error.strerror}") from None
