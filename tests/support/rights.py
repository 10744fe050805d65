"""Applications with rights for a sidecar under test, and the file that names them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import orjson

Granted = Mapping[str, Mapping[str, list[str]]]


def token_of(name: str) -> str:
    """The token of an application."""
    return f"token-of-{name}-" + "0" * 32


def write_rights(path: Path, granted: Granted, **more: dict[str, list[str] | list[int]]) -> None:
    """A rights_file in which each application is known by `token_of`, written as tools do.

    `more` adds to the applications of these names.
    """
    applications = [
        {
            "name": name,
            "tokens_sha256": [hashlib.sha256(token_of(name).encode()).hexdigest()],
            "rights": rights,
            **more.get(name, {}),
        }
        for name, rights in granted.items()
    ]
    new = path.with_suffix(".new")
    new.write_bytes(orjson.dumps({"applications": applications}))
    new.replace(path)
