"""The simulated replica: it answers as a server with the scripts does, byte for byte.

Pure: the server's clock is an argument. It is held equal to real servers by random operations, so
that what a simulator finds out about it is true of them.
"""

import copy
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from hiredis import Reader, ReplyError

from replicas.acceptor import Acceptor, Content, decode_acceptor, encode_promise
from replicas.fake_listing import FakeListing
from replicas.fake_repair import FakeRepair, replace_identity
from replicas.fence import Fence, Role, decode_fence
from replicas.group import decode_group
from replicas.layout import FENCE_FIELD, MAP_FIELD, USER_PREFIX
from replicas.record import FLAG_EXPIRED, VERSION_BYTES, Record, decode_record
from replicas.replies import APPLIED, APPLIED_OVER_LIVE, SUPERSEDED, Code
from replicas.scripts import SCRIPTS
from replicas.version import ZERO_VERSION, physical_ms

MAX_FIELD_BYTES = 1025
LOG_ENTRY_BYTES = 64  # as in scripts/lib/apply.lua

_LIMITS = struct.Struct(">II")
_WRITE_ARGUMENTS = 5
_COPY_ARGUMENTS = 6
_SCRIPT_BY_SHA = {script.sha: name for name, script in SCRIPTS.items()}


@dataclass
class State:
    """Everything that a replica holds: hashes, change logs (entries in order), plain values."""

    hashes: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    logs: dict[bytes, list[bytes]] = field(default_factory=dict)
    values: dict[bytes, bytes] = field(default_factory=dict)


class FakeReplica:
    """One server. `execute` takes what a link would send, and returns what it would receive."""

    def __init__(self, run_id: bytes) -> None:
        self.run_id = run_id
        self.state = State()
        self._repair = FakeRepair(self._refuse, self._agreed_fence)
        self._listing = FakeListing(self._refuse, self._agreed_fence)
        self._scripts: dict[str, Callable[[list[bytes], list[bytes], int], object]] = {
            "write": self._apply,
            "heal": lambda keys, args, now_ms: self._apply(keys, args, now_ms, healing=True),
            "transact": self._transact,
            "copy": self._copy,
            "prepare": self._prepare,
            "accept": self._accept,
            "heal_acceptor": self._heal_acceptor,
            "promises": lambda keys, args, _: self._repair.promises(self._fields(keys), keys, args),
            "fence_create": self._create,
            "fence_raise": self._raise,
            "fence_release": self._release,
            "identity": self._identity,
            "identity_replace": lambda keys, args, _: replace_identity(
                self.state.values, keys, args
            ),
            "digest": lambda keys, args, _: self._repair.digest(self._fields(keys), keys, args),
            "entries": lambda keys, args, _: self._repair.entries(self._fields(keys), keys, args),
            "list": lambda keys, args, _: self._listing.step(self._fields(keys), keys, args),
            "count": lambda keys, args, _: self._listing.total(self._fields(keys), keys, args),
            "drop": lambda keys, args, _: self._repair.drop(self._fields(keys), keys, args),
            "purge": lambda keys, args, now_ms: self._repair.purge(
                self._fields(keys), keys, args, now_ms
            ),
            "fence_overwrite": self._overwrite,
        }

    # --- faults

    def snapshot(self) -> State:
        """A copy of what it holds now: what a crash may throw it back to."""
        return copy.deepcopy(self.state)

    def restart(self, run_id: bytes, state: State | None = None) -> None:
        """A new life: with everything it held, unless `state` is given (an older snapshot)."""
        self.run_id = run_id
        if state is not None:
            self.state = copy.deepcopy(state)

    def restart_empty(self, run_id: bytes) -> None:
        """A new life without a memory of the former one."""
        self.restart(run_id, State())

    # --- commands

    def execute(self, command: bytes, now_ms: int) -> object:
        """The reply to one command at `now_ms` on the server's clock (Unix milliseconds)."""
        reader = Reader()
        reader.feed(command)
        arguments = reader.gets()
        name = arguments[0].upper()
        if name == b"EVALSHA":
            return self._evalsha(arguments[1], arguments[2:], now_ms)
        if name == b"HMGET":
            fields = self.state.hashes.get(arguments[1], {})
            return [fields.get(wanted) for wanted in arguments[2:]]
        if name == b"DEL":
            return self._delete(arguments[1])
        if name == b"GET":
            return self.state.values.get(arguments[1])
        if name == b"TIME":
            return [b"%d" % (now_ms // 1000), b"%d" % (now_ms % 1000 * 1000)]
        if name == b"PING":
            return b"PONG"
        return ReplyError(f"ERR unknown command '{arguments[0].decode('latin-1')}'")

    def _delete(self, key: bytes) -> int:
        found = [kind.pop(key, None) for kind in (self.state.hashes, self.state.logs)]
        return int(any(kept is not None for kept in found))

    def _evalsha(self, sha: bytes, arguments: list[bytes], now_ms: int) -> object:
        name = _SCRIPT_BY_SHA.get(sha)
        if name is None:
            return ReplyError("NOSCRIPT No matching script.")
        keys_end = 1 + int(arguments[0])
        return self._scripts[name](arguments[1:keys_end], arguments[keys_end:], now_ms)

    def _refuse(
        self, keys: list[bytes], code: Code, detail: bytes | int = b"", *, entry: bool = False
    ) -> list[object]:
        """What a script's refusal looks like; with the map entry where a map may be old."""
        fields = self.state.hashes.get(keys[0], {}) if code is not Code.BAD_REQUEST else {}
        known = fields.get(MAP_FIELD) if entry else None
        return [code.value.encode(), fields.get(FENCE_FIELD), known, detail]

    # --- write, heal and copy: scripts/lib/apply.lua

    def _copy(self, keys: list[bytes], arguments: list[bytes], now_ms: int) -> object:
        seen = arguments[5] if len(arguments) == _COPY_ARGUMENTS else b""
        return self._apply(keys, arguments, now_ms, seen=seen)

    def _apply(
        self,
        keys: list[bytes],
        arguments: list[bytes],
        now_ms: int,
        *,
        healing: bool = False,
        seen: bytes | None = None,
    ) -> object:
        record = _offered(keys, arguments, seen)
        if isinstance(record, bytes):
            return self._refuse(keys, Code.BAD_REQUEST, record)
        epoch, incarnation, field_name, _, limits = arguments[:_WRITE_ARGUMENTS]
        fields = self.state.hashes.get(keys[0], {})
        fence = self._agreed_fence(keys, fields.get(FENCE_FIELD), epoch, incarnation)
        if isinstance(fence, list):
            return fence
        max_skew_ms, log_bytes = _LIMITS.unpack(limits)
        old = fields.get(field_name)
        if record.is_linearizable:
            return self._refuse(keys, Code.WRONG_MODE, b"offered")
        if old == record.raw:
            return APPLIED
        if _ahead_of(record, now_ms + max_skew_ms):
            return self._refuse(keys, Code.SKEWED, now_ms)
        if healing and old is not None and decode_record(old) is None:
            outcome: int | list[object] = APPLIED
        else:
            outcome = self._judge_stored(keys, fence, record, old, now_ms, seen=seen)
        if outcome in (APPLIED, APPLIED_OVER_LIVE):
            self._store(keys, field_name, record.raw, log_bytes)
        return outcome

    # --- transact: scripts/transact.lua

    def _transact(self, keys: list[bytes], arguments: list[bytes], now_ms: int) -> object:
        problem = _bad_argument(keys, arguments, 2, _WRITE_ARGUMENTS)
        group = decode_group(arguments[3]) if not problem else None
        if group is None or group[0][1].version == ZERO_VERSION:
            return self._refuse(keys, Code.BAD_REQUEST, problem or b"record")
        fields = self.state.hashes.get(keys[0], {})
        fence = self._agreed_fence(keys, fields.get(FENCE_FIELD), arguments[0], arguments[1])
        if isinstance(fence, list):
            return fence
        max_skew_ms, log_bytes = _LIMITS.unpack(arguments[4])
        reply, stored = APPLIED, list[tuple[bytes, bytes]]()
        for key, record in group:
            field_name = USER_PREFIX + key
            if fields.get(field_name) == record.raw:
                continue
            if _ahead_of(record, now_ms + max_skew_ms):
                return self._refuse(keys, Code.SKEWED, now_ms)
            verdict = self._judge_stored(keys, fence, record, fields.get(field_name), now_ms)
            if isinstance(verdict, list):
                return verdict
            if verdict != SUPERSEDED:
                stored.append((field_name, record.raw))
            reply = max(reply, verdict)
        for field_name, raw in stored:
            self._store(keys, field_name, raw, log_bytes)
        return reply

    def _judge_stored(
        self,
        keys: list[bytes],
        fence: Fence,
        record: Record,
        old: bytes | None,
        now_ms: int,
        *,
        seen: bytes | None = None,
    ) -> int | list[object]:
        """What a record comes to on what stands, which may be damaged."""
        if old is not None and decode_record(old) is None:
            return self._refuse(keys, Code.CORRUPT, b"record")
        return self._judge(keys, fence, record, decode_record(old or b""), now_ms, seen=seen)

    def _store(self, keys: list[bytes], field_name: bytes, raw: bytes, log_bytes: int) -> None:
        log = self.state.logs.setdefault(keys[1], [])
        log.append(raw[8:24] + field_name[1:])
        del log[: -max(1, log_bytes // LOG_ENTRY_BYTES)]
        self.state.hashes[keys[0]][field_name] = raw

    def _agreed_fence(
        self, keys: list[bytes], raw: bytes | None, epoch: bytes, incarnation: bytes
    ) -> Fence | list[object]:
        """The replica's fence if it lets the writer in, otherwise the refusal."""
        if raw is None:
            return self._refuse(keys, Code.NO_FENCE)
        fence = decode_fence(raw)
        if fence is None:
            return self._refuse(keys, Code.CORRUPT, b"fence")
        if fence.epoch > int.from_bytes(epoch, "big"):
            return self._refuse(keys, Code.STALE_EPOCH, entry=True)
        if fence.role is Role.RELEASED:
            return self._refuse(keys, Code.RELEASED, entry=True)
        if fence.incarnation != int.from_bytes(incarnation, "big"):
            return self._refuse(keys, Code.WRONG_INCARNATION, entry=True)
        if fence.role is Role.READ_REPLICA:
            return self._refuse(keys, Code.WRONG_ROLE, entry=True)
        return fence

    def _judge(
        self,
        keys: list[bytes],
        fence: Fence,
        record: Record,
        old: Record | None,
        now_ms: int,
        *,
        seen: bytes | None,
    ) -> int | list[object]:
        """What a record of this mode comes to, where no record or a valid one stands."""
        if old is not None and old.is_linearizable:
            return self._refuse(keys, Code.WRONG_MODE, b"stored")
        if seen is None and record.version <= fence.closed_through:
            return self._refuse(keys, Code.CLOSED)
        if old is not None and record.order <= old.order:
            return SUPERSEDED
        if seen != fence.purged_through >= record.version:
            return self._refuse(keys, Code.PURGED)
        return APPLIED_OVER_LIVE if old is not None and old.live(now_ms) else APPLIED

    # --- prepare and accept: scripts/lib/acceptor.lua

    def _prepare(self, keys: list[bytes], arguments: list[bytes], _now_ms: int) -> object:
        problem = _bad_argument(keys, arguments, 1, 4)
        if not problem and (len(arguments[3]) != VERSION_BYTES or arguments[3] == ZERO_VERSION):
            problem = b"ballot"
        if problem:
            return self._refuse(keys, Code.BAD_REQUEST, problem)
        ballot = arguments[3]
        found = self._look_up(keys, arguments)
        if isinstance(found, list):
            return found
        acceptor, floor = found
        if ballot < acceptor.promise or ballot <= floor:
            return self._refuse(keys, Code.LOW_BALLOT, max(acceptor.promise, floor))
        promised = encode_promise(acceptor, ballot)
        self.state.hashes[keys[0]][arguments[2]] = promised
        return promised

    def _accept(self, keys: list[bytes], arguments: list[bytes], now_ms: int) -> object:
        offered = self._offered_acceptor(keys, arguments)
        if isinstance(offered, list):
            return offered
        found = self._look_up(keys, arguments)
        if isinstance(found, list):
            return found
        acceptor, floor = found
        if acceptor.accepted == offered.accepted:
            return APPLIED
        if offered.accepted < acceptor.promise or offered.accepted <= floor:
            return self._refuse(keys, Code.LOW_BALLOT, max(acceptor.promise, floor))
        if offered.content.expired and now_ms < offered.content.expires_at_ms:
            return self._refuse(keys, Code.SKEWED, now_ms)
        self._store(keys, arguments[2], offered.raw, _LIMITS.unpack(arguments[4])[1])
        return APPLIED

    def _heal_acceptor(self, keys: list[bytes], arguments: list[bytes], _now_ms: int) -> object:
        """scripts/heal_acceptor.lua"""
        offered = self._offered_acceptor(keys, arguments)
        if isinstance(offered, list):
            return offered
        fields = self.state.hashes.get(keys[0], {})
        fence = self._agreed_fence(keys, fields.get(FENCE_FIELD), arguments[0], arguments[1])
        if isinstance(fence, list):
            return fence
        raw = fields.get(arguments[2])
        record = decode_record(raw or b"")
        if record is not None and not record.is_linearizable:
            return self._refuse(keys, Code.WRONG_MODE, b"stored")
        if raw is None or decode_acceptor(raw) is not None:
            return SUPERSEDED
        floor = max(fence.ballot_floor, fence.closed_through, fence.purged_through)
        if offered.accepted <= floor:
            return self._refuse(keys, Code.LOW_BALLOT, floor)
        self._store(keys, arguments[2], offered.raw, _LIMITS.unpack(arguments[4])[1])
        return APPLIED

    def _offered_acceptor(
        self, keys: list[bytes], arguments: list[bytes]
    ) -> Acceptor | list[object]:
        """The record that an acceptor is offered, or the refusal of a malformed one."""
        problem = _bad_argument(keys, arguments, 2, 5)
        if problem:
            return self._refuse(keys, Code.BAD_REQUEST, problem)
        offered = decode_acceptor(arguments[3])
        record = decode_record(arguments[3])
        if offered is None and record is not None and not record.is_linearizable:
            return [Code.WRONG_MODE.value.encode(), None, None, b"offered"]
        if offered is None or not ZERO_VERSION < offered.accepted == offered.promise:
            return self._refuse(keys, Code.BAD_REQUEST, b"record")
        return offered

    def _look_up(
        self, keys: list[bytes], arguments: list[bytes]
    ) -> tuple[Acceptor, bytes] | list[object]:
        """The key's state, and what a ballot must be above whatever was promised; or a refusal."""
        fields = self.state.hashes.get(keys[0], {})
        fence = self._agreed_fence(keys, fields.get(FENCE_FIELD), arguments[0], arguments[1])
        if isinstance(fence, list):
            return fence
        raw = fields.get(arguments[2])
        acceptor = _without_record(fence) if raw is None else decode_acceptor(raw)
        if acceptor is None:
            record = decode_record(raw or b"")
            if record is not None and not record.is_linearizable:
                return self._refuse(keys, Code.WRONG_MODE, b"stored")
            return self._refuse(keys, Code.CORRUPT, b"record")
        return acceptor, max(fence.ballot_floor, fence.closed_through, fence.purged_through)

    # --- fences: scripts/fence_*.lua

    def _create(self, keys: list[bytes], arguments: list[bytes], _now_ms: int) -> object:
        if len(keys) != 3 or len(arguments) != 2:
            return self._refuse(keys, Code.BAD_REQUEST, b"arity")
        raw, entry = arguments
        fence = decode_fence(raw)
        if fence is None or fence.role is Role.RELEASED:
            return self._refuse(keys, Code.BAD_REQUEST, b"fence")
        if FENCE_FIELD in self.state.hashes.get(keys[0], {}):
            return self._refuse(keys, Code.EXISTS, entry=True)
        for key in keys:
            if key in self.state.hashes or key in self.state.logs:
                return self._refuse(keys, Code.LEFTOVERS, key)
        self.state.hashes[keys[0]] = {FENCE_FIELD: raw, MAP_FIELD: entry}
        return 1

    def _raise(self, keys: list[bytes], arguments: list[bytes], _now_ms: int) -> object:
        parsed = self._new_and_old(keys, arguments, releasing=False)
        if isinstance(parsed, list):
            return parsed
        new, old = parsed
        if new.prefix != old.prefix and new.epoch <= old.epoch:
            return self._refuse(keys, Code.STALE_EPOCH, entry=True)
        if new.role is Role.OWNER and old.role in (Role.RELEASED, Role.READ_REPLICA):
            return self._refuse(keys, Code.WRONG_ROLE, entry=True)
        return self._replace(keys, new, old, arguments[1])

    def _release(self, keys: list[bytes], arguments: list[bytes], _now_ms: int) -> object:
        parsed = self._new_and_old(keys, arguments, releasing=True)
        if isinstance(parsed, list):
            return parsed
        new, old = parsed
        if old.epoch > new.epoch:
            return self._refuse(keys, Code.STALE_EPOCH, entry=True)
        return self._replace(keys, new, old, arguments[1])

    def _overwrite(self, keys: list[bytes], arguments: list[bytes], _now_ms: int) -> object:
        empty = not any(key in self.state.hashes or key in self.state.logs for key in keys)
        fields = self._fields(keys)
        reply = self._repair.overwrite(fields, keys, arguments, empty=empty)
        if fields:
            self.state.hashes[keys[0]] = fields
        return reply

    def _fields(self, keys: list[bytes]) -> dict[bytes, bytes]:
        return self.state.hashes.get(keys[0], {}) if keys else {}

    def _new_and_old(
        self, keys: list[bytes], arguments: list[bytes], *, releasing: bool
    ) -> tuple[Fence, Fence] | list[object]:
        """The offered and the stored fence, of one incarnation; or a refusal."""
        if len(keys) != 1 or len(arguments) != 2:
            return self._refuse(keys, Code.BAD_REQUEST, b"arity")
        new = decode_fence(arguments[0])
        if new is None or (new.role is Role.RELEASED) != releasing:
            return self._refuse(keys, Code.BAD_REQUEST, b"fence")
        raw = self.state.hashes.get(keys[0], {}).get(FENCE_FIELD)
        if raw is None:
            return self._refuse(keys, Code.NO_FENCE)
        old = decode_fence(raw)
        if old is None:
            return self._refuse(keys, Code.CORRUPT, b"fence")
        if old.incarnation != new.incarnation:
            return self._refuse(keys, Code.WRONG_INCARNATION, entry=True)
        return new, old

    def _replace(self, keys: list[bytes], new: Fence, old: Fence, entry: bytes) -> int:
        merged = Fence(
            new.epoch,
            new.stage,
            new.role,
            new.incarnation,
            max(new.purged_through, old.purged_through),
            max(new.closed_through, old.closed_through),
            max(new.ballot_floor, old.ballot_floor),
        )
        self.state.hashes[keys[0]].update({FENCE_FIELD: merged.encode(), MAP_FIELD: entry})
        return 1

    # --- identity: scripts/identity.lua

    def _identity(self, keys: list[bytes], arguments: list[bytes], _now_ms: int) -> object:
        return self.state.values.setdefault(keys[0], arguments[0])


def _without_record(fence: Fence) -> Acceptor:
    """Of a key that may have had one: its operation ids are forgotten."""
    forgotten = Content(forgotten_ms=physical_ms(fence.purged_through))
    return Acceptor(ZERO_VERSION, ZERO_VERSION, b"", forgotten)


def _offered(keys: list[bytes], arguments: list[bytes], seen: bytes | None) -> Record | bytes:
    """The record that a write or a copy brings, or which of its arguments is malformed."""
    count = _WRITE_ARGUMENTS if seen is None else _COPY_ARGUMENTS
    problem = _bad_argument(keys, arguments, 2, count)
    if problem:
        return problem
    if seen is not None and len(seen) != VERSION_BYTES:
        return b"seen"
    record = decode_record(arguments[3])
    return b"record" if record is None or record.version == ZERO_VERSION else record


def _bad_argument(
    keys: list[bytes], arguments: list[bytes], key_count: int, argument_count: int
) -> bytes:
    """Which argument of a script of either mode is malformed; empty: none."""
    if len(keys) != key_count or len(arguments) != argument_count:
        return b"arity"
    epoch, incarnation, field_name = arguments[:3]
    if len(epoch) != 8:
        return b"epoch"
    if len(incarnation) != 8:
        return b"incarnation"
    if not 2 <= len(field_name) <= MAX_FIELD_BYTES or not field_name.startswith(USER_PREFIX):
        return b"field"
    limited = argument_count >= _WRITE_ARGUMENTS
    return b"limits" if limited and len(arguments[4]) != _LIMITS.size else b""


def _ahead_of(record: Record, latest_ms: int) -> bool:
    """Whether the record comes from a clock too far ahead, or expires one before its time."""
    if physical_ms(record.version) > latest_ms:
        return True
    return record.flags & FLAG_EXPIRED != 0 and record.expires_at_ms > latest_ms
