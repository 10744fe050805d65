"""Links to nodes that a job keeps between its steps."""

import asyncio
from collections import defaultdict
from typing import Final

from buckets.topology import Node
from replicas.client import ReplicaClient

TIMEOUT_S: Final = 10.0


class NodeLinks:
    """One link a node, opened when it is first asked for. Raises ReplicaError."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._clients: dict[str, ReplicaClient] = {}
        self._opening: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def open(self, node: Node) -> ReplicaClient:
        """The link to a node's present life; the caller looks at `server.run_id`."""
        async with self._opening[node.address]:  # of several that ask at once, one connects
            client = self._clients.get(node.address)
            if client is None or client.link.closed:
                client = await ReplicaClient.connect(
                    node.host, node.port, timeout_s=self._timeout_s
                )
                self._clients[node.address] = client
            return client

    def close(self) -> None:
        """Drop all of them."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()
