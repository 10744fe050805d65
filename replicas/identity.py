"""Whose data a server holds: cluster, node and incarnation, kept on the server itself."""

from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server was admitted as. Kept as JSON, so that people can read it with any client."""

    cluster: str
    node: str  # the node's id
    incarnation: int

    def encode(self) -> bytes:
        """A JSON object with the fields' names."""
        fields = {"cluster": self.cluster, "node": self.node, "incarnation": self.incarnation}
        return orjson.dumps(fields)

    def names_same_node(self, other: "Identity") -> bool:
        """Whether both are the same node of the same cluster, whatever the incarnation."""
        return self.cluster == other.cluster and self.node == other.node


def decode_identity(raw: bytes) -> Identity | None:
    """The identity in `raw`; None when it is none."""
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    match fields:
        case {"cluster": str(cluster), "node": str(node), "incarnation": int(incarnation)}:
            return Identity(cluster, node, incarnation)
    return None
