"""Rights at the gRPC door: every method of the Data service asks here before it does anything.

The keyspace stands in the request, which is decoded once more for it, by the very class that the
handler uses: two readers of one message could be made to see two keyspaces.
"""

from typing import Any, Final

from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from protos.dabbawala.v1 import data_pb2 as pb
from sidecar.errors import DataError, Fault, Outcome, Reason
from sidecar.net.grpc_errors import fail_call, garbled
from sidecar.net.register_service import DEFAULT_KEYSPACE
from sidecar.rights import BOTH, STRANGER, Denials, Holder, Peer, Rights, Verb, token_digest
from sidecar.wire.grpc import Call, UnaryHandler

_METHODS: Final = pb.DESCRIPTOR.services_by_name["Data"].methods_by_name
# What is not here takes both. CompareAndSet and Increment tell what stands.
_NEEDS: Final = {
    "Get": Verb.READ,
    "BatchGet": Verb.READ,
    "Scan": Verb.READ,
    "Locate": Verb.READ,
    "Put": Verb.WRITE,
    "Delete": Verb.WRITE,
    "BatchWrite": Verb.WRITE,
    "Transact": Verb.WRITE,
}
_SCHEME: Final = b"bearer "
_HEADER: Final = b"authorization"
_MOST_KNOWN: Final = 4096
_MOST_KNOWN_BYTES: Final = 256  # of a header: spaces before a token could make it 16 KiB
_GRANT: Final = "grant it in the sidecar's rights_file"


class GrpcRights:
    """Those of one door. Who asks is found out once for each client and authorization header."""

    def __init__(self, rights: Rights) -> None:
        self.denials = Denials()
        self._rights = rights
        self._known: dict[tuple[Peer, bytes], Holder] = {}

    def use(self, rights: Rights) -> None:
        """Judge by new rights, open connections too."""
        self._rights = rights
        self._known.clear()

    def guard(self, method: str, handler: UnaryHandler) -> UnaryHandler:
        """A handler that is reached by whoever may call this method of the Data service."""
        needed = _NEEDS.get(method, BOTH)
        request: Any = GetMessageClass(_METHODS[method].input_type)

        def guarded(call: Call, message: bytes) -> None:
            try:
                keyspace = request.FromString(message).keyspace or DEFAULT_KEYSPACE
            except DecodeError:
                garbled(call, request.DESCRIPTOR.name)
                return
            refusal = self._refusal(call, keyspace, needed)
            if refusal is None:
                handler(call, message)
            else:
                fail_call(call, refusal)

        return guarded

    def _refusal(self, call: Call, keyspace: str, needed: Verb) -> DataError | None:
        outcome = Outcome.NOT_APPLIED if needed & Verb.WRITE else None
        holder = self._holder(call)
        if holder is None:
            self.denials.unknown_token += 1
            return _unauthenticated(Reason.TOKEN_REFUSED, _REFUSED, outcome, keyspace)
        missing = needed & ~holder.verbs(keyspace)
        if not missing:
            return None
        if holder.is_nobody:
            self.denials.no_token += 1
            return _unauthenticated(Reason.UNAUTHENTICATED, _MISSING, outcome, keyspace)
        self.denials.no_right += 1
        return DataError(
            Reason.RIGHT_MISSING,
            Fault.FORBIDDEN,
            f"{holder.name} may not {missing.shown()} in keyspace {keyspace}; {_GRANT}",
            outcome=outcome,
            keyspace=keyspace,
            application=holder.name,
            missing=missing.shown(),
        )

    def _holder(self, call: Call) -> Holder | None:
        """Who asks; None: the authorization header is nobody's."""
        headers = [value for name, value in call.metadata if name == _HEADER]
        peer = call.peer if isinstance(call.peer, Peer) else STRANGER
        if not headers:
            return self._rights.by_peer(peer)
        if len(headers) > 1:
            return None
        return self._known.get((peer, headers[0])) or self._authenticate(peer, headers[0])

    def _authenticate(self, peer: Peer, header: bytes) -> Holder | None:
        if header[: len(_SCHEME)].lower() != _SCHEME:
            return None
        found = self._rights.by_digest(token_digest(header[len(_SCHEME) :].strip()))
        if found is not None and len(header) <= _MOST_KNOWN_BYTES:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[peer, header] = found
        return found


_MISSING: Final = (
    "this sidecar asks who calls; send metadata authorization: Bearer TOKEN, with a token of an"
    " application in the sidecar's rights_file"
)
_REFUSED: Final = (
    "the authorization is not Bearer with a token of an application in the sidecar's rights_file;"
    " send one that is, once"
)


def _unauthenticated(
    reason: Reason, message: str, outcome: Outcome | None, keyspace: str
) -> DataError:
    return DataError(reason, Fault.UNAUTHENTICATED, message, outcome=outcome, keyspace=keyspace)
