from pathlib import Path

import pytest

from control_plane.coordination.errors import BadUrl
from control_plane.coordination.opening import open_store, sqlite_path, zookeeper_hosts


def test_a_file_address_names_an_absolute_path() -> None:
    assert sqlite_path("/var/lib/dabba/c.db") == Path("/var/lib/dabba/c.db")


def test_zookeeper_addresses() -> None:
    assert zookeeper_hosts("a:1,b,[::1]:3,[::2]") == (
        [("a", 1), ("b", 2181), ("::1", 3), ("::2", 2181)],
        "",
    )
    assert zookeeper_hosts("zk-0.zk:2181/") == ([("zk-0.zk", 2181)], "")
    assert zookeeper_hosts("a:1/apps/one") == ([("a", 1)], "/apps/one")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite",
        "sqlite://",
        "sqlite:///",
        "sqlite://c.db",
        "sqlite:///a/\0",
        "SQLITE:///a",
        "/a/c.db",
        "etcd://a:1",
        "zookeeper://",
        "zookeeper://a:0",
        "zookeeper://a:65536",
        "zookeeper://a:b",
        "zookeeper://a,,b",
        "zookeeper://a b",
        "zookeeper://u:p@a:1",
        "zookeeper://a/b//c",
        "zookeeper://a/b/",
    ],
)
async def test_an_address_that_cannot_be_understood_is_refused(url: str) -> None:
    with pytest.raises(BadUrl, match="sqlite://|zookeeper://"):
        await open_store(url)
