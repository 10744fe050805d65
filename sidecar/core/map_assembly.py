"""From the responses of a delta stream to a map worth adopting. No I/O, no clock.

The resources of one batch are gathered until the response that carries a revision; then the map
that they and those already held make is judged as a whole. What is refused is answered with the
name of the resource and never adopted; what was good before stays. Entries that replicas sent with
a refusal are laid over the map until it catches up. An epoch never goes down.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from google.protobuf.message import DecodeError

from buckets.bucket_map import RANGE_BUCKETS, BucketMap, Keyspace, KeyspaceSettings
from buckets.codec import (
    NODES_NAME,
    RESOURCE_TYPES,
    MapEntry,
    RangeValue,
    join_ranges,
    map_resources,
    range_name,
)
from buckets.errors import CodecError
from buckets.topology import Node
from buckets.validate import NO_LIMITS, ChangeLimits, Rule, violations
from protos.dabbawala.v1 import discovery_pb2
from sidecar.core.saved_map import (
    NodeTableValue,
    Piece,
    SavedMapError,
    SavedMapReason,
    decode_piece,
    decode_saved_map,
    decode_saved_pieces,
    encode_saved_map,
)

__all__ = ["MapAssembly", "StreamBroken", "decode_saved_map", "encode_saved_map"]

BATCH_BOUND_RESPONSES: Final = 1024
_RESOURCE_REFUSED: Final = 3  # google.rpc.Code INVALID_ARGUMENT
_MAP_REFUSED: Final = 9  # FAILED_PRECONDITION: not to be sent again in parts
_MAP: Final = "map"
_WHOLE_MAP_RULES: Final = {Rule.CLUSTER_CHANGED, Rule.EMPTY, Rule.TOO_MUCH_CHANGED}


class StreamBroken(Exception):
    """The stream is of no more use; connect again and resume with what is held."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one response led to: answers to send, and a new map if there is one."""

    replies: list[bytes] = field(default_factory=list)
    adopted: BucketMap | None = None


@dataclass(frozen=True, slots=True)
class _Problem:
    resource: str
    detail: str
    whole: bool = False


@dataclass(slots=True)
class _Response:
    """One response of the batch that is being gathered. A piece None means: removed."""

    nonce: str
    type_url: str
    pieces: dict[str, Piece | None]
    problem: _Problem | None = None


class MapAssembly:
    """The sidecar's map, as far as it is known and good."""

    def __init__(self, cluster: str, limits: ChangeLimits = NO_LIMITS) -> None:
        self.current: BucketMap | None = None
        self.synced_revision = 0  # the newest that was taken in without a refusal
        self._cluster = cluster
        self._limits = limits
        self._held: dict[str, Piece] = {}
        self._learnt: dict[tuple[str, int], MapEntry] = {}
        self._refused: dict[str, str] = {}
        self._batch: list[_Response] = []
        self._early: dict[str, Piece | None] = {}
        self._answered: set[str] = set()

    @property
    def refused(self) -> Mapping[str, str]:
        """Why, by resource ("map": the map as a whole), for all that stands refused."""
        return MappingProxyType(self._refused)

    # --- the stream -------------------------------------------------------------------------

    def open_stream(self, node: discovery_pb2.DiscoveryNode) -> list[bytes]:
        """The requests that begin a stream: everything, except what is held already."""
        self._batch, self._early, self._answered = [], {}, set()
        requests: list[bytes] = []
        for type_url in RESOURCE_TYPES:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url,
                resource_names_subscribe=["*"],
                initial_resource_versions={
                    piece.name: piece.version
                    for piece in self._held.values()
                    if piece.type_url == type_url and piece.version
                },
            )
            if not requests:
                request.node.CopyFrom(node)
            requests.append(request.SerializeToString())
        return requests

    def name_again(self, node: discovery_pb2.DiscoveryNode) -> bytes:
        """A request in mid-stream that asks for nothing new: `node` says something else now."""
        request = discovery_pb2.DeltaDiscoveryRequest(node=node, type_url=RESOURCE_TYPES[0])
        return request.SerializeToString()

    def on_response(self, raw: bytes) -> Step:
        """Takes one DeltaDiscoveryResponse. Raises StreamBroken."""
        response = _parsed(raw)
        if response.type_url not in RESOURCE_TYPES:
            raise StreamBroken(f"a response of type {response.type_url!r}, which was not asked for")
        if len(self._batch) >= BATCH_BOUND_RESPONSES:
            raise StreamBroken(f"more than {BATCH_BOUND_RESPONSES} responses without a revision")
        self._batch.append(_decoded(response))
        self._answered.add(response.type_url)
        if not response.system_version_info:
            return Step()
        return self._finish_batch(_revision(response.system_version_info))

    def _finish_batch(self, revision: int) -> Step:
        batch, self._batch = self._batch, []
        if len(self._answered) < len(RESOURCE_TYPES):
            # The stream is just beginning and the other types are still to come: nothing that a map
            # could be judged by yet, but the sender waits for an answer.
            for response in batch:
                if response.problem is None:
                    self._early.update(response.pieces)
            return Step(self._replies(batch))
        adopted = self._settle(batch, revision)
        return Step(self._replies(batch), adopted)

    def _settle(self, batch: list[_Response], revision: int) -> BucketMap | None:
        """Takes in as many responses of the batch as make a good map; marks the others."""
        while True:
            good = [response for response in batch if response.problem is None]
            held = self._with(self._early, *(response.pieces for response in good))
            candidate, problem = self._candidate(held, revision)
            if problem is None:
                break
            if not good:
                raise StreamBroken(f"{problem.resource}: {problem.detail}")
            blamed = [r for r in good if problem.resource in r.pieces and not problem.whole]
            for response in blamed or good:
                response.problem = problem
        self._held, self._early = held, {}
        self._note_refusals(batch)
        if not self._refused:
            self.synced_revision = max(revision, self.synced_revision)
        return self._adopt(candidate)

    def _with(self, *changes: Mapping[str, Piece | None]) -> dict[str, Piece]:
        held = dict(self._held)
        for change in changes:
            for name, piece in change.items():
                if piece is None:
                    held.pop(name, None)
                else:
                    held[name] = piece
        return held

    def _note_refusals(self, batch: list[_Response]) -> None:
        self._refused.pop(_MAP, None)
        for response in batch:
            if response.problem is None:
                for name in response.pieces:
                    self._refused.pop(name, None)
        for response in batch:
            problem = response.problem
            if problem is not None:
                self._refused[_MAP if problem.whole else problem.resource] = problem.detail

    def _replies(self, batch: list[_Response]) -> list[bytes]:
        return [_reply(response).SerializeToString() for response in batch]

    # --- the map ----------------------------------------------------------------------------

    def _candidate(
        self, held: Mapping[str, Piece], revision: int
    ) -> tuple[BucketMap | None, _Problem | None]:
        """The map that these pieces make, None if they make none yet; or what is wrong."""
        table = held.get(NODES_NAME)
        if table is None or not isinstance(table.content, NodeTableValue):
            lost = _Problem(NODES_NAME, "the node table is gone") if self.current else None
            return None, lost
        if table.content.cluster != self._cluster:
            detail = f"cluster is {table.content.cluster!r}, this sidecar is of {self._cluster!r}"
            return None, _Problem(NODES_NAME, detail, whole=True)
        ranges: dict[str, dict[int, RangeValue]] = {}
        settings: list[KeyspaceSettings] = []
        for piece in held.values():
            if isinstance(piece.content, RangeValue):
                ranges.setdefault(piece.content.keyspace, {})[piece.content.index] = piece.content
            elif isinstance(piece.content, KeyspaceSettings):
                settings.append(piece.content)
        keyspaces: dict[str, Keyspace] = {}
        for each in sorted(settings, key=lambda one: one.name):
            try:
                keyspaces[each.name] = join_ranges(each, ranges.get(each.name, {}))
            except CodecError as error:
                if self.current is not None and each.name in self.current.keyspaces:
                    return None, _Problem(error.resource, error.detail)
        candidate = BucketMap(self._cluster, revision, table.content.nodes, keyspaces)
        return self._judged(self._overlaid(candidate))

    def _judged(self, candidate: BucketMap) -> tuple[BucketMap | None, _Problem | None]:
        if self.current is None and not (candidate.nodes and candidate.keyspaces):
            return None, None  # a cluster that is still being set up: nothing wrong, nothing to use
        for violation in violations(candidate, self.current, self._limits):
            if violation.refuses:
                whole = violation.rule in _WHOLE_MAP_RULES
                detail = f"{violation.detail} ({violation.rule})"
                return None, _Problem(violation.resource, detail, whole)
        return candidate, None

    def _adopt(self, candidate: BucketMap | None) -> BucketMap | None:
        if candidate is None:
            return None
        current = self.current
        if current is not None:
            if (candidate.nodes, candidate.keyspaces) == (current.nodes, current.keyspaces):
                return None
            if candidate.revision < current.revision:
                candidate = dataclasses.replace(candidate, revision=current.revision)
        self.current = candidate
        self._forget_learnt(candidate)
        return candidate

    # --- what replicas tell ---------------------------------------------------------------------

    def learn(self, entry: MapEntry) -> BucketMap | None:
        """The map with a bucket's newer entry, or None when it is not newer or not believable."""
        current = self.current
        if current is None or entry.keyspace not in current.keyspaces:
            return None
        buckets = current.keyspaces[entry.keyspace].buckets
        if entry.bucket.id >= len(buckets) or entry.bucket.epoch <= buckets[entry.bucket.id].epoch:
            return None
        if any(_contradicts(node, current.nodes.get(node.number)) for node in entry.nodes):
            return None
        candidate = _overlay(current, [entry])
        if any(violation.refuses for violation in violations(candidate, current)):
            return None
        self._learnt[entry.keyspace, entry.bucket.id] = entry
        self.current = candidate
        return candidate

    def _overlaid(self, candidate: BucketMap) -> BucketMap:
        newer = [
            entry
            for (keyspace, bucket), entry in self._learnt.items()
            if keyspace in candidate.keyspaces
            and bucket < len(candidate.keyspaces[keyspace].buckets)
            and candidate.keyspaces[keyspace].buckets[bucket].epoch < entry.bucket.epoch
        ]
        return _overlay(candidate, newer) if newer else candidate

    def _forget_learnt(self, adopted: BucketMap) -> None:
        """What the map has caught up with need not be laid over it any more."""
        for (keyspace, bucket), entry in list(self._learnt.items()):
            piece = self._held.get(range_name(keyspace, bucket // RANGE_BUCKETS))
            content = piece.content if piece else None
            if keyspace not in adopted.keyspaces or (
                isinstance(content, RangeValue)
                and content.buckets[bucket % RANGE_BUCKETS].epoch >= entry.bucket.epoch
            ):
                del self._learnt[keyspace, bucket]

    # --- the disk ---------------------------------------------------------------------------

    def save(self) -> bytes | None:
        """The current map for the disk, with the versions to resume by; None without a map."""
        if self.current is None:
            return None
        # A range that a learnt entry changed has no version: it is asked for again.
        versions = {
            resource.name: self._held[resource.name].version
            for resource in map_resources(self.current)
            if resource.name in self._held and self._held[resource.name].value == resource.value
        }
        return encode_saved_map(self.current, versions)

    def load(self, raw: bytes) -> BucketMap:
        """Takes over a saved map. Raises SavedMapError; what is held stays as it is then."""
        saved, pieces = decode_saved_pieces(raw, self._cluster)
        if self.current is not None:
            for violation in violations(saved, self.current):
                if violation.refuses:
                    raise SavedMapError(SavedMapReason.OLDER, str(violation))
        self._held = {piece.name: piece for piece in pieces}
        self.current = saved
        return saved


def _overlay(bucket_map: BucketMap, entries: list[MapEntry]) -> BucketMap:
    """The map with these buckets instead of its own, and with the nodes that only they know."""
    nodes = dict(bucket_map.nodes)
    replaced: dict[str, dict[int, MapEntry]] = {}
    for entry in entries:
        replaced.setdefault(entry.keyspace, {})[entry.bucket.id] = entry
        for node in entry.nodes:
            if _is_news(node, nodes.get(node.number)):
                nodes[node.number] = node
    keyspaces = dict(bucket_map.keyspaces)
    for name, by_id in replaced.items():
        keyspace = keyspaces[name]
        buckets = list(keyspace.buckets)
        for number, entry in by_id.items():
            buckets[number] = entry.bucket
        keyspaces[name] = Keyspace(keyspace.settings, tuple(buckets))
    return dataclasses.replace(bucket_map, nodes=nodes, keyspaces=keyspaces)


def _contradicts(node: Node, known: Node | None) -> bool:
    # A number is never given twice, so an entry that does is of another cluster, or damaged.
    return known is not None and known.id != node.id


def _is_news(node: Node, known: Node | None) -> bool:
    return known is None or known.incarnation < node.incarnation


def _parsed(raw: bytes) -> discovery_pb2.DeltaDiscoveryResponse:
    response = discovery_pb2.DeltaDiscoveryResponse()
    try:
        response.MergeFromString(raw)
    except DecodeError:
        raise StreamBroken(f"{len(raw)} bytes are not a DeltaDiscoveryResponse") from None
    return response


def _revision(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise StreamBroken(f"system_version_info {text[:40]!r} is not a revision")
    return int(text)


def _decoded(response: discovery_pb2.DeltaDiscoveryResponse) -> _Response:
    pieces: dict[str, Piece | None] = dict.fromkeys(response.removed_resources)
    try:
        for each in response.resources:
            if each.resource.type_url != response.type_url:
                raise CodecError(each.name, f"is of type {each.resource.type_url!r}")
            pieces[each.name] = decode_piece(
                response.type_url, each.name, each.version, each.resource.value
            )
    except CodecError as error:
        problem = _Problem(error.resource, error.detail)
        return _Response(response.nonce, response.type_url, {}, problem)
    return _Response(response.nonce, response.type_url, pieces)


def _reply(response: _Response) -> discovery_pb2.DeltaDiscoveryRequest:
    reply = discovery_pb2.DeltaDiscoveryRequest(
        type_url=response.type_url, response_nonce=response.nonce
    )
    problem = response.problem
    if problem is not None:
        reply.error_detail.code = _MAP_REFUSED if problem.whole else _RESOURCE_REFUSED
        reply.error_detail.message = f"{problem.resource}: {problem.detail}"
    return reply
