"""What one subscriber of a delta stream wants, has, refused, and should be sent next. No I/O.

There is no queue to a subscriber: the next batch is computed from what it has and what there is
now, so one that is slow is never sent what is out of date, and costs no memory. At most one batch
is under way. Its responses come in the order of the types given (what ranges refer to before the
ranges), and the last carries the map's revision in `system_version_info`: with it the subscriber
has all of that revision. A batch of which a response was refused is followed by its resources one
by one, so that the bad one gets a name and the others get through.
"""

import enum
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from buckets.codec import RESOURCE_TYPES
from control_plane.xds.errors import BadRequest
from control_plane.xds.resources import EncodedResource, Snapshot
from protos.dabbawala.v1 import discovery_pb2

WILDCARD: Final = "*"
RESPONSE_BOUND_BYTES: Final = 1 << 20  # gRPC refuses messages of 4 MiB
NAMES_BOUND: Final = 1 << 16  # subscribed to or declared, on one stream
NAME_BOUND_CHARS: Final = 512
TYPES_BOUND: Final = 16
DETAIL_BOUND_CHARS: Final = 500
# A refusal of the map as a whole (google.rpc.Code FAILED_PRECONDITION): sending its resources one
# by one would smuggle in what was refused as a whole.
WHOLE_MAP_REFUSED: Final = 9


class SyncState(enum.StrEnum):
    """How a subscriber stands to the newest map."""

    SYNCED = "SYNCED"
    STALE = "STALE"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who subscribes and how it fares, as it said last."""

    id: str
    cluster: str = ""
    zone: str = ""
    address: str = ""
    version: str = ""
    agent: str = ""
    clock_skew_ms: float | None = None  # its clock minus the median of the nodes'; None: unknown
    clock_problem: str = ""


@dataclass(slots=True)
class _TypeState:
    """One resource type on the stream. A version "" means that the resource does not exist."""

    wildcard: bool = False
    explicit: set[str] = field(default_factory=set)
    known: dict[str, str] = field(default_factory=dict)  # what the subscriber has
    refused: set[str] = field(default_factory=set)  # each by itself
    held_back: set[str] = field(default_factory=set)  # refused with their map, until the next one
    singly: deque[str] = field(default_factory=deque)  # to be sent one by one
    answered: bool = False


@dataclass(frozen=True, slots=True)
class _Sent:
    """A response that is not acknowledged yet. `versions` as in _TypeState.known."""

    type_url: str
    versions: Mapping[str, str]
    revision: int  # 0: not the last of its batch


class Subscription:
    """One delta stream. Feed it requests, send what `next_batch` answers."""

    def __init__(
        self,
        types: Sequence[str] = RESOURCE_TYPES,
        response_bound_bytes: int = RESPONSE_BOUND_BYTES,
    ) -> None:
        self.identity: Identity | None = None
        self.acked_revision = 0
        self.detail = ""  # of the last refusal that still stands
        self._order = types
        self._response_bound_bytes = response_bound_bytes
        self._types: dict[str, _TypeState] = {}
        self._pending: dict[str, _Sent] = {}  # by nonce
        self._nonce = 0
        self._offered: Snapshot | None = None  # the last one that it was told of in full

    @property
    def in_flight(self) -> bool:
        """Whether responses are waiting for their acknowledgement."""
        return bool(self._pending)

    @property
    def subscribed(self) -> bool:
        """Whether it asked for any of the types served here."""
        return any(type_url in self._types for type_url in self._order)

    def state(self, newest: Snapshot | None) -> SyncState:
        """How it stands to the newest map; REJECTED as long as something of it stands refused."""
        if any(state.refused or state.held_back for state in self._types.values()):
            return SyncState.REJECTED
        if newest is None or self._pending or not self._types:
            return SyncState.STALE
        behind = any(
            state.singly or not state.answered or any(_missing(state, newest.of(type_url)))
            for type_url, state in self._types.items()
            if type_url in self._order
        )
        return SyncState.STALE if behind else SyncState.SYNCED

    # --- from the subscriber ----------------------------------------------------------------

    def on_request(self, raw: bytes) -> None:
        """Takes one DeltaDiscoveryRequest. Raises BadRequest; the stream is over then."""
        request = _parsed(raw)
        if self.identity is None or request.node.id == self.identity.id:
            self.identity = _identity(request)
        state = self._types.get(request.type_url)
        if state is None:
            state = self._open(request)
        else:
            self._change_names(state, request)
        if request.response_nonce:
            self._on_answer(request)
        names = sum(len(each.explicit) + len(each.known) for each in self._types.values())
        if names > NAMES_BOUND:
            raise BadRequest(f"{names} resource names on one stream, the bound is {NAMES_BOUND}")

    def _open(self, request: discovery_pb2.DeltaDiscoveryRequest) -> _TypeState:
        if not request.type_url or len(request.type_url) > NAME_BOUND_CHARS:
            raise BadRequest("type_url must name a resource type")
        if len(self._types) >= TYPES_BOUND:
            raise BadRequest(f"more than {TYPES_BOUND} resource types on one stream")
        state = self._types[request.type_url] = _TypeState()
        # No names in the first request is how subscribers asked for everything before "*" existed.
        state.wildcard = not request.resource_names_subscribe
        self._change_names(state, request)
        state.known.update(request.initial_resource_versions)
        return state

    def _change_names(
        self, state: _TypeState, request: discovery_pb2.DeltaDiscoveryRequest
    ) -> None:
        for name in request.resource_names_subscribe:
            if name == WILDCARD:
                state.wildcard = True
                continue
            if not name or len(name) > NAME_BOUND_CHARS:
                raise BadRequest(f"resource names have 1 to {NAME_BOUND_CHARS} characters")
            state.explicit.add(name)
            state.known.pop(name, None)  # asked for again: sent again
        for name in request.resource_names_unsubscribe:
            if name == WILDCARD:
                state.wildcard = False
            state.explicit.discard(name)
        if not state.wildcard:
            for name in state.known.keys() - state.explicit:
                del state.known[name]
            state.refused &= state.explicit
            state.held_back &= state.explicit

    def _on_answer(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        sent = self._pending.get(request.response_nonce)
        # An answer to a response that is not waited for says nothing new.
        if sent is None or sent.type_url != request.type_url:
            return
        del self._pending[request.response_nonce]
        state = self._types[sent.type_url]
        state.answered = True
        if request.HasField("error_detail"):
            self._on_refusal(state, sent, request.error_detail.code, request.error_detail.message)
            return
        for name, version in sent.versions.items():
            state.refused.discard(name)
            if version or name in state.explicit:
                state.known[name] = version
            else:
                state.known.pop(name, None)
        if sent.revision:
            self.acked_revision = sent.revision
        if not any(each.refused or each.held_back for each in self._types.values()):
            self.detail = ""

    def _on_refusal(self, state: _TypeState, sent: _Sent, code: int, message: str) -> None:
        self.detail = message[:DETAIL_BOUND_CHARS]
        if code == WHOLE_MAP_REFUSED:
            state.held_back.update(sent.versions)
        elif len(sent.versions) > 1:
            state.singly.extend(sent.versions)
        else:
            state.refused.update(sent.versions)
            name = next(iter(sent.versions), sent.type_url)
            self.detail = f"{name}: {message.removeprefix(f'{name}: ')}"[:DETAIL_BOUND_CHARS]

    # --- to the subscriber ------------------------------------------------------------------

    def next_batch(self, snapshot: Snapshot) -> list[bytes]:
        """The responses (DeltaDiscoveryResponse bytes) to send now; none while some wait."""
        if self._pending:
            return []
        single = self._next_single()
        if single is not None:
            return [single]
        served = self._served()
        if not served:
            return []
        news = snapshot is not self._offered
        if news:
            self._offered = snapshot
            self._offer_again()
        parts = list(self._parts(snapshot))
        told = {type_url for type_url, _ in parts}
        parts += [(t, {}) for t in served if not self._types[t].answered and t not in told]
        if not parts and news:
            parts = [(served[-1], {})]  # only the revision is new
        last = len(parts) - 1
        return [
            self._response(snapshot, type_url, versions, snapshot.revision if i == last else 0)
            for i, (type_url, versions) in enumerate(parts)
        ]

    def _served(self) -> list[str]:
        return [type_url for type_url in self._order if type_url in self._types]

    def _next_single(self) -> bytes | None:
        # From the map they were refused with: a newer one's nodes may not be known there yet.
        snapshot = self._offered
        if snapshot is None:
            return None
        for type_url in self._served():
            state = self._types[type_url]
            while state.singly:
                name = state.singly.popleft()
                target = _version(snapshot.of(type_url), name)
                if target == state.known.get(name, ""):
                    state.refused.discard(name)
                    continue
                return self._response(snapshot, type_url, {name: target}, snapshot.revision)
        return None

    def _parts(self, snapshot: Snapshot) -> Iterator[tuple[str, dict[str, str]]]:
        """What is missing, in the order of types, in pieces that fit into a response."""
        for type_url in self._served():
            resources = snapshot.of(type_url)
            part: dict[str, str] = {}
            size_bytes = 0
            for name, version in _missing(self._types[type_url], resources):
                added = len(resources[name].framed) if version else len(name)
                if part and size_bytes + added > self._response_bound_bytes:
                    yield type_url, part
                    part, size_bytes = {}, 0
                part[name] = version
                size_bytes += added
            if part:
                yield type_url, part

    def _offer_again(self) -> None:
        """A newer map may have mended what was refused; singly, so that the rest is safe."""
        for state in self._types.values():
            state.singly.extend(sorted(state.refused))
            state.held_back.clear()

    def _response(
        self, snapshot: Snapshot, type_url: str, versions: Mapping[str, str], revision: int
    ) -> bytes:
        self._nonce += 1
        nonce = str(self._nonce)
        self._pending[nonce] = _Sent(type_url, versions, revision)
        head = discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=str(revision) if revision else "",
            type_url=type_url,
            nonce=nonce,
            removed_resources=[name for name, version in versions.items() if not version],
        ).SerializeToString()
        resources = snapshot.of(type_url)
        return head + b"".join(resources[name].framed for name, v in versions.items() if v)


def _missing(
    state: _TypeState, resources: Mapping[str, EncodedResource]
) -> Iterator[tuple[str, str]]:
    """(name, version) of what the subscriber should have and has not; "" for what is gone."""
    known, passed_over = state.known, state.refused | state.held_back
    wanted = resources if state.wildcard else [n for n in state.explicit if n in resources]
    for name in wanted:
        version = resources[name].version
        if known.get(name) != version and name not in passed_over:
            yield name, version
    gone = {name for name, version in known.items() if version and name not in resources}
    gone |= {name for name in state.explicit if name not in resources and known.get(name) != ""}
    for name in sorted(gone - passed_over):
        yield name, ""


def _version(resources: Mapping[str, EncodedResource], name: str) -> str:
    return resources[name].version if name in resources else ""


def _parsed(raw: bytes) -> discovery_pb2.DeltaDiscoveryRequest:
    request = discovery_pb2.DeltaDiscoveryRequest()
    try:
        request.MergeFromString(raw)
    except DecodeError:
        raise BadRequest(f"{len(raw)} bytes are not a DeltaDiscoveryRequest") from None
    return request


def _identity(request: discovery_pb2.DeltaDiscoveryRequest) -> Identity:
    node = request.node
    if not node.id or len(node.id) > NAME_BOUND_CHARS:
        raise BadRequest("the first request of a stream must name the subscriber in node.id")
    fields = node.metadata.fields
    skew = fields.get("clock_skew_ms")
    problem = fields["clock_problem"].string_value if "clock_problem" in fields else ""
    return Identity(
        id=node.id,
        cluster=node.cluster,
        zone=node.locality.zone,
        address=fields["address"].string_value if "address" in fields else "",
        version=node.user_agent_version,
        agent=node.user_agent_name,
        clock_skew_ms=skew.number_value if skew is not None else None,
        clock_problem=problem[:DETAIL_BOUND_CHARS],
    )
