"""The scripts that a replica runs, each one atomic step. Lua has no imports: parts are joined.

Keys, arguments and replies are described at the head of each file:

    write          put or delete one record              lib/apply.lua
    heal           the same, over a corrupt record too   lib/apply.lua
    transact       put or delete several, or none        transact.lua
    copy           the same, of what another owner holds lib/apply.lua
    prepare        promise a ballot                      prepare.lua
    accept         accept what was chosen for a ballot   accept.lua
    heal_acceptor  the same, over a corrupt record only  heal_acceptor.lua
    promises       the highest promise of a bucket       promises.lua
    fence_create   a bucket's first fence                fence_create.lua
    fence_raise    to a newer epoch                      fence_raise.lua
    fence_release  leave a gravestone                    fence_release.lua
    fence_overwrite  a new life, joining                 fence_overwrite.lua
    identity       whose data this is, given once        identity.lua
    identity_replace  that of the next life              identity_replace.lua
    digest         digests of a bucket by leaf           digest.lua
    entries        keys and versions of leaves           entries.lua
    list           keys of a bucket                      list.lua
    count          how many                              count.lua
    drop           a joining replica's leftover          drop.lua
    purge          tombstones that nobody needs          purge.lua
    hint_keep      a hint for another owner              hint_keep.lua

write, heal, copy and transact are of the tunable mode, prepare and accept of the linearizable one;
each refuses records of the other. They and the fence scripts answer with an integer (acknowledged;
prepare: with the record), or with an array [code, fence or nil, map entry or nil, detail]: an
atomic refusal, after which nothing has changed.
"""

from collections.abc import Mapping
from hashlib import sha1
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

_FOLDER = Path(__file__).parent

_FENCE = ("lib/record", "lib/fence")
_WRITE = (*_FENCE, "lib/request")

_PARTS = {
    "write": (*_WRITE, "lib/apply", "write"),
    "heal": (*_WRITE, "lib/apply", "heal"),
    "transact": (*_WRITE, "lib/apply", "transact"),
    "copy": (*_WRITE, "lib/apply", "copy"),
    "prepare": (*_WRITE, "lib/acceptor", "prepare"),
    "accept": (*_WRITE, "lib/acceptor", "accept"),
    "heal_acceptor": (*_WRITE, "lib/acceptor", "heal_acceptor"),
    "promises": (*_WRITE, "lib/acceptor", "lib/step", "promises"),
    "fence_create": (*_FENCE, "fence_create"),
    "fence_raise": (*_FENCE, "fence_raise"),
    "fence_release": (*_FENCE, "fence_release"),
    "fence_overwrite": (*_FENCE, "fence_overwrite"),
    "identity": ("identity",),
    "identity_replace": ("identity_replace",),
    "digest": (*_WRITE, "lib/step", "digest"),
    "entries": (*_WRITE, "lib/step", "entries"),
    "list": (*_WRITE, "lib/walk", "list"),
    "count": (*_WRITE, "lib/walk", "count"),
    "drop": (*_WRITE, "drop"),
    "purge": (*_WRITE, "lib/acceptor", "lib/step", "purge"),
    "hint_keep": (*_WRITE, "hint_keep"),
}


class Script(NamedTuple):
    """A script's source, and the name under which a server that has loaded it runs it."""

    source: bytes
    sha: bytes  # 40 hexadecimal digits


def _load(parts: tuple[str, ...]) -> Script:
    # Without comments: a server takes no argument of 16 KiB from one who has given no password yet,
    # and breaks the connection instead of asking for it.
    lines = [
        line
        for part in parts
        for line in (_FOLDER / f"{part}.lua").read_bytes().splitlines(keepends=True)
        if line.strip() and not line.lstrip().startswith(b"--")
    ]
    source = b"".join(lines)
    return Script(source, sha1(source).hexdigest().encode())


SCRIPTS: Mapping[str, Script] = MappingProxyType(
    {name: _load(parts) for name, parts in _PARTS.items()}
)
