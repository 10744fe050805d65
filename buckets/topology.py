"""Nodes and where they stand: frozen values."""

import enum
from dataclasses import dataclass


class NodeState(enum.IntEnum):
    """What the control plane thinks of a node's data. Values are those of map.proto."""

    ACTIVE = 1
    SUSPECT = 2  # takes writes where it has a fence, counts in nothing
    DRAINING = 3


@dataclass(frozen=True, slots=True)
class Node:
    """One replica server.

    `incarnation` is one life of its data; `run_id` (20 bytes) is the server life in which that
    incarnation is trusted. `number` stands for the node in ranges and is never given twice.
    """

    number: int
    id: str
    host: str
    port: int
    zone: str
    rack: str = ""
    weight: int = 100
    incarnation: int = 1
    run_id: bytes = b""
    state: NodeState = NodeState.ACTIVE
    reason: str = ""

    @property
    def address(self) -> str:
        """`host:port`, as people and servers write it (IPv6 in brackets)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
