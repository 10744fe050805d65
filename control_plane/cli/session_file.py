"""`--session FILE`: a session token that goes from one command to the next."""

from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli.errors import EXIT_USAGE, CommandError
from control_plane.dev.files import write_atomically

SessionFile = Annotated[
    Path | None,
    typer.Option(
        "--session",
        metavar="FILE",
        help="Go on with the session whose token is in FILE (a new one if there is none), and keep"
        " the next token there: nothing older is read than the session has met.",
    ),
]

_NEW = b"new"
_MOST_BYTES = 1 << 16


def brought(file: Path | None) -> bytes:
    """What to send as `session`: the token in the file; empty without a file."""
    if file is None:
        return b""
    try:
        with file.open("rb") as opened:
            return opened.read(_MOST_BYTES).strip() or _NEW
    except FileNotFoundError:
        return _NEW
    except OSError as error:
        raise _unusable(file, error) from None


def keep(file: Path | None, token: bytes) -> None:
    """Put the next token into the file: once the answer has been printed, whatever comes of it."""
    if file is None or not token:
        return
    try:
        write_atomically(file, token + b"\n")
    except OSError as error:
        raise _unusable(file, error) from None


def _unusable(file: Path, error: OSError) -> CommandError:
    text = f"--session {file} can not be used: {error.strerror}"
    return CommandError(text, "name a file that you may write", exit_code=EXIT_USAGE)
