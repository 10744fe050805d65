"""What the store holds about a node: its entry in the map, and why it is trusted. Pure.

JSON that people can read. Fields of a newer version that this one does not know are ignored.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from buckets.documents import node_from_json, node_to_json
from buckets.topology import Node, NodeState

# Why a node is SUSPECT; kept beside the reason, which is for people.
RESTARTED_EMPTY: Final = "restarted-empty"
RESTARTED_NOT_DURABLE: Final = "restarted-not-durable"
FENCES_MISSING: Final = "fences-missing"
FLUSHED: Final = "flushed"
ROLE_CHANGED: Final = "role-changed"
EVICTING: Final = "evicting"


class _Trust(msgspec.Struct, frozen=True, kw_only=True):
    durable: bool = False
    cause: str = ""
    judged_run_id: str = ""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node.

    `durable`: in the life that `node.run_id` names, every acknowledged write was on disk first.
    `cause` and `judged_run_id` (hex) say why it became SUSPECT, and in which life it was judged.
    """

    node: Node
    durable: bool = False
    cause: str = ""
    judged_run_id: str = ""

    @property
    def trusted(self) -> bool:
        """Whether its copies count."""
        return self.node.state is not NodeState.SUSPECT

    def suspected(self, cause: str, reason: str, judged_run_id: bytes) -> "NodeRecord":
        """The same node, no longer trusted. Its run_id stays that of the last trusted life."""
        return replace(
            self,
            node=replace(self.node, state=NodeState.SUSPECT, reason=reason),
            cause=cause,
            judged_run_id=judged_run_id.hex(),
        )

    def trusted_in(self, run_id: bytes, *, durable: bool) -> "NodeRecord":
        """The same node and incarnation, trusted in another life of its server."""
        node = replace(self.node, run_id=run_id, state=NodeState.ACTIVE, reason="")
        return replace(self, node=node, durable=durable, cause="", judged_run_id="")


def encode_node_record(record: NodeRecord) -> bytes:
    """The document of one node."""
    document: dict[str, Any] = msgspec.json.decode(node_to_json(record.node))
    document |= msgspec.to_builtins(
        _Trust(durable=record.durable, cause=record.cause, judged_run_id=record.judged_run_id)
    )
    return msgspec.json.encode(document)


def decode_node_record(raw: bytes, path: str) -> NodeRecord:
    """Raises CodecError, which names `path`, when the document is not a node."""
    node = node_from_json(raw, path)
    try:
        trust = msgspec.json.decode(raw, type=_Trust)
    except msgspec.ValidationError:
        trust = _Trust()  # not known to be durable: the cautious reading
    return NodeRecord(node, trust.durable, trust.cause, trust.judged_run_id)
