"""From the address of a coordination store to the open store."""

import re
from pathlib import Path
from typing import Final

from control_plane.coordination.embedded import EmbeddedStore
from control_plane.coordination.errors import BadPath, BadUrl
from control_plane.coordination.paths import checked_path
from control_plane.coordination.store import CoordinationStore, StoreOptions
from control_plane.coordination.zookeeper import ZooKeeperStore

_DEFAULT_PORT: Final = 2181
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
_DEFAULTS: Final = StoreOptions()


async def open_store(url: str, options: StoreOptions = _DEFAULTS) -> CoordinationStore:
    """Open `sqlite:///path/to/file.db` (an absolute path) or
    `zookeeper://host:port,host:port/optional/chroot`.

    Raises BadUrl, Unavailable (nothing answers within `options.connect_timeout_ms`), WrongStore.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite":
        return await EmbeddedStore.open(sqlite_path(rest), options)
    if separator and scheme == "zookeeper":
        hosts, prefix = zookeeper_hosts(rest)
        return await ZooKeeperStore.open(hosts, prefix, options)
    raise BadUrl(
        f"coordination store {url!r} must be sqlite:///path/to/file.db or zookeeper://host:port,host:port/chroot"
    )


def sqlite_path(rest: str) -> Path:
    """The file of what stands after `sqlite://`. Raises BadUrl."""
    if not rest.startswith("/") or rest.endswith("/") or "\0" in rest:
        raise BadUrl(
            f"sqlite://{rest} must name a file by an absolute path: sqlite:///path/to/file.db"
        )
    return Path(rest)


def zookeeper_hosts(rest: str) -> tuple[list[tuple[str, int]], str]:
    """The hosts and the chroot ("" when there is none) of what stands after `zookeeper://`. Raises
    BadUrl.
    """
    addresses, slash, chroot = rest.partition("/")
    hosts = [_host(address, rest) for address in addresses.split(",")]
    if not slash or not chroot:
        return hosts, ""
    try:
        return hosts, checked_path("/" + chroot)
    except BadPath as error:
        raise BadUrl(f"zookeeper://{rest}: the chroot is not a path: {error}") from error


def _host(address: str, rest: str) -> tuple[str, int]:
    matched = _HOST.fullmatch(address)
    port = int(matched[3] or _DEFAULT_PORT) if matched else 0
    if not matched or not 0 < port <= 65535:
        raise BadUrl(f"zookeeper://{rest}: {address!r} is not host:port")
    return matched[1] or matched[2], port
