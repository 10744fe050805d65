"""The scripts that a replica runs, each one atomic step. Lua has no imports: parts are joined.

Keys, arguments and replies are described at the head of each file:

    write          put or delete one record              lib/apply.lua
    heal           the same, over a corrupt record too   lib/apply.lua
    fence_create   a bucket's first fence                fence_create.lua
    fence_raise    to a newer epoch                      fence_raise.lua
    fence_release  leave a gravestone                    fence_release.lua
    identity       whose data this is, given once        identity.lua

write, heal and the fence scripts answer with an integer (acknowledged) or with an array
[code, fence or nil, map entry or nil, detail]: an atomic refusal, after which nothing has changed.
"""

from collections.abc import Mapping
from hashlib import sha1
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

_FOLDER = Path(__file__).parent

_PARTS = {
    "write": ("lib/record", "lib/fence", "lib/apply", "write"),
    "heal": ("lib/record", "lib/fence", "lib/apply", "heal"),
    "fence_create": ("lib/record", "lib/fence", "fence_create"),
    "fence_raise": ("lib/record", "lib/fence", "fence_raise"),
    "fence_release": ("lib/record", "lib/fence", "fence_release"),
    "identity": ("identity",),
}


class Script(NamedTuple):
    """A script's source, and the name under which a server that has loaded it runs it."""

    source: bytes
    sha: bytes  # 40 hexadecimal digits


def _load(parts: tuple[str, ...]) -> Script:
    source = b"\n".join((_FOLDER / f"{part}.lua").read_bytes() for part in parts)
    return Script(source, sha1(source).hexdigest().encode())


SCRIPTS: Mapping[str, Script] = MappingProxyType(
    {name: _load(parts) for name, parts in _PARTS.items()}
)
