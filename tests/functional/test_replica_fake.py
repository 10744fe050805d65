"""The fake and real servers, given the same random commands: equal replies, equal state."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buckets.bucket_map import Stage
from replicas.acceptor import Content, Decided, encode_acceptor
from replicas.commands import (
    copy_command,
    create_fence,
    entry_command,
    pack_command,
    pack_limits,
    prepare_prefix,
    prepare_suffix,
    raise_fence,
    read_command,
    read_prefix,
    release_fence,
    set_identity,
    write_prefix,
    write_suffix,
)
from replicas.digest import (
    digest_command,
    drop_command,
    entries_command,
    overwrite_fence,
    promises_command,
)
from replicas.fence import Fence, Role
from replicas.group import encode_group
from replicas.layout import FENCE_FIELD, IDENTITY_KEY, BucketKeys, bucket_keys, user_field
from replicas.listing import count_command, list_command
from replicas.purge import What, purge_command
from replicas.record import KNOWN_FLAGS, encode_record
from replicas.scripts import SCRIPTS
from replicas.version import ZERO_VERSION
from tests.support.replica_records import flip, sealed, version_at
from tests.support.replica_subjects import FakeSubject, ServerSubject
from tests.support.servers import start_redis, start_valkey, stopped_after

KEYS = [bucket_keys("places", bucket) for bucket in (0, 1)]
MINUTE_MS = 60_000
FEW = st.integers(1, 3)
FIRST_FENCE = Fence(1, Stage.OLD, Role.OWNER, 1).encode()


@dataclass(frozen=True)
class Poke:
    """Damage done behind the scripts' back."""

    key: bytes
    field: bytes
    value: bytes


@pytest.fixture(scope="module", params=["valkey", pytest.param("redis", marks=pytest.mark.peers)])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerSubject]:
    start = start_valkey if request.param == "valkey" else start_redis
    with stopped_after(start(tmp_path_factory.mktemp(request.param))) as running:
        connected = ServerSubject(running)
        yield connected
        connected.close()


# Offsets from the server's clock, which moves on while the commands run: never near the bound of
# the skew (500 ms), so that both sides judge alike. Few of them, so that versions meet.
offsets_ms = st.sampled_from([-MINUTE_MS * n for n in (1, 2, 3) * 4] + [MINUTE_MS])
versions = st.builds(
    lambda offset_ms, counter, writer: (offset_ms, counter, writer),
    offsets_ms,
    st.sampled_from([0, 1, 255, 256, 65535]),
    st.sampled_from([b"node-B\x00\x00", b"node_a\x00\x00", b"\xff" * 8, b"\x00" * 8]),
)
rarely = st.sampled_from([False] * 11 + [True])
good_flags = st.sampled_from([0, 0, 0, 1, 1, 2, 2, 7, 7, 8])
user_keys = st.sampled_from([b"a", b"\x00\r\n\xff"])


def stamp(now_ms: int, parts: tuple[int, int, bytes]) -> bytes:
    return version_at(now_ms + parts[0], parts[1], parts[2])


@st.composite
def records(draw: st.DrawFn, now_ms: int) -> bytes:
    """Mostly records as they should be; some of wrong flags, of wrong form, or damaged."""
    version = ZERO_VERSION if draw(rarely) else stamp(now_ms, draw(versions))
    flags = draw(st.integers(0, KNOWN_FLAGS + 1) if draw(rarely) else good_flags)
    expiry = draw(st.sampled_from([now_ms - MINUTE_MS, now_ms + MINUTE_MS] * 4 + [0, 1 << 48]))
    body = version + bytes([flags])
    if (flags & 2 != 0) != draw(rarely):
        body += expiry.to_bytes(8, "big")
    if (flags & 1 == 0) != draw(rarely):
        body += draw(st.sampled_from([b"", b"x", b"yy"]))
    raw = sealed(body)
    if draw(rarely):
        return flip(raw, draw(st.integers(0, len(raw) - 1)))
    return raw[: draw(st.integers(0, 32))] if draw(rarely) else raw


@st.composite
def registers(draw: st.DrawFn, now_ms: int) -> bytes:
    """Mostly states of acceptors as they should be; some of wrong form, or damaged."""
    ballot = ZERO_VERSION if draw(rarely) else stamp(now_ms, draw(versions))
    value = draw(st.sampled_from([b"x", b"", None]))
    expired = value is None and draw(st.booleans())
    expires = expired or (value is not None and draw(rarely))
    expires_at_ms = (
        draw(st.sampled_from([now_ms - MINUTE_MS, now_ms + MINUTE_MS])) if expires else 0
    )
    if ballot == ZERO_VERSION:
        value, expires_at_ms, expired = None, 0, False
    ids = () if ballot == ZERO_VERSION else (Decided(b"i" * 16, ballot),) * draw(st.integers(0, 2))
    raw = encode_acceptor(ballot, Content(value, expires_at_ms, expired, ballot, ids, 5))
    if draw(rarely):
        return flip(raw, draw(st.integers(0, len(raw) - 1)))
    if draw(rarely):  # of wrong form, with a right checksum
        return sealed(flip(raw, draw(st.integers(8, len(raw) - 1)))[8:])
    return raw[: draw(st.integers(0, 80))] if draw(rarely) else raw


@st.composite
def steps(draw: st.DrawFn, now_ms: int) -> bytes:
    """A prepare or an accept."""
    keys, epoch = draw(st.sampled_from(KEYS)), draw(st.sampled_from([3, 3, 3, 3, 2, 1]))
    key, incarnation = draw(user_keys), 2 if draw(rarely) else 1
    if draw(st.booleans()):
        ballot = ZERO_VERSION if draw(rarely) else stamp(now_ms, draw(versions))
        return prepare_prefix(keys, epoch, incarnation) + prepare_suffix(key, ballot)
    script = SCRIPTS[draw(st.sampled_from(["accept", "accept", "heal_acceptor"]))]
    prefix = write_prefix(keys, epoch, incarnation, script=script)
    record = draw(records(now_ms)) if draw(rarely) else draw(registers(now_ms))
    return prefix + write_suffix(key, record, pack_limits(500, 1 << 20))


@st.composite
def groups(draw: st.DrawFn, now_ms: int) -> bytes:
    """Mostly groups as they should be; some with foreign records, of wrong form, or damaged."""
    version = ZERO_VERSION if draw(rarely) else stamp(now_ms, draw(versions))
    items = [
        (key, draw(records(now_ms)) if draw(rarely) else draw(members(version)))
        for key in draw(st.lists(st.sampled_from([b"a", b"\x00\r\n\xff", b"c"]), max_size=3))
    ]
    raw = encode_group(version, items)
    if draw(rarely):
        return sealed(raw[8 : draw(st.integers(8, len(raw)))])
    return flip(raw, draw(st.integers(0, len(raw) - 1))) if draw(rarely) else raw


def members(version: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(
        [
            encode_record(version, b"x"),
            encode_record(version, b"", tombstone=True),
            encode_record(version, b"y", expires_at_ms=1 << 40),
        ]
    )


@st.composite
def fences(draw: st.DrawFn, now_ms: int, roles: tuple[Role, ...]) -> bytes:
    bound = st.sampled_from([True, False, False])
    fence = Fence(
        draw(FEW),
        draw(st.sampled_from(Stage)),
        draw(st.sampled_from(roles)),
        2 if draw(rarely) else 1,
        stamp(now_ms, draw(versions)) if draw(bound) else ZERO_VERSION,
        stamp(now_ms, draw(versions)) if draw(bound) else ZERO_VERSION,
        stamp(now_ms, draw(versions)) if draw(rarely) else ZERO_VERSION,
    ).encode()
    return flip(fence, draw(st.integers(0, len(fence) - 1))) if draw(rarely) else fence


@st.composite
def commands(draw: st.DrawFn, now_ms: int) -> bytes | Poke:
    keys = draw(st.sampled_from(KEYS))
    entry = draw(st.sampled_from([b"", b"entry 1", b"entry 2"]))
    living = (Role.OWNER, Role.OWNER, Role.JOINING, Role.READ_REPLICA)
    kinds = ["write"] * 8 + ["transact"] * 4 + ["step"] * 8
    kinds += ["copy", "copy", "purge", "purge", "purge"]
    kinds += ["create", "raise", "release", "other", "other"]
    kind = draw(st.sampled_from(kinds))
    if kind == "step":
        return draw(steps(now_ms))
    if kind == "write":
        script = SCRIPTS[draw(st.sampled_from(["write", "write", "write", "heal"]))]
        epoch = draw(st.sampled_from([3, 3, 3, 3, 2, 1]))
        prefix = write_prefix(keys, epoch, 2 if draw(rarely) else 1, script=script)
        limits = pack_limits(500, 1 << 20)
        return prefix + write_suffix(draw(user_keys), draw(records(now_ms)), limits)
    if kind == "transact":
        prefix = write_prefix(keys, draw(st.sampled_from([3, 3, 2])), 1, script=SCRIPTS["transact"])
        return prefix + write_suffix(b"a", draw(groups(now_ms)), pack_limits(500, 1 << 20))
    if kind in ("copy", "purge"):
        return draw(copies(now_ms, keys) if kind == "copy" else purges(now_ms, keys))
    if kind == "create":
        return create_fence(keys, draw(fences(now_ms, living)), entry)
    if kind == "raise":
        return raise_fence(keys, draw(fences(now_ms, (*living, Role.RELEASED))), entry)
    if kind == "release":
        return release_fence(keys, draw(fences(now_ms, (Role.RELEASED, Role.OWNER))), entry)
    return draw(other_commands(now_ms))


@st.composite
def copies(draw: st.DrawFn, now_ms: int, keys: BucketKeys) -> bytes:
    seen = bounds(now_ms)[draw(st.integers(0, 2))]
    return copy_command(
        keys,
        draw(st.sampled_from([3, 3, 3, 2])),
        2 if draw(rarely) else 1,
        draw(user_keys),
        draw(records(now_ms)),
        limits=pack_limits(500, 1 << 20),
        seen=b"" if draw(rarely) else draw(st.sampled_from([seen, seen[:-1] + b"\x01"])),
    )


@st.composite
def purges(draw: st.DrawFn, now_ms: int, keys: BucketKeys) -> bytes:
    bound = bounds(now_ms)[draw(st.integers(0, 2))]
    return purge_command(
        keys,
        draw(st.sampled_from([3, 3, 3, 2])),
        2 if draw(rarely) else 1,
        what=draw(st.sampled_from([What.LOOK, What.CLOSE, What.DROP, What.DROP, What.EQUALIZE])),
        bound=b"\xff" * 16 if draw(rarely) else bound,
        grace_ms=draw(st.sampled_from([0, 3 * MINUTE_MS // 2, 5 * MINUTE_MS // 2])),
        count=0 if draw(rarely) else 100,
    )


def bounds(now_ms: int) -> list[bytes]:
    """Few, so that copies and purges meet."""
    later = (version_at(now_ms - minutes * MINUTE_MS, 0, bytes(8)) for minutes in (1, 2))
    return [ZERO_VERSION, *later]


@st.composite
def other_commands(draw: st.DrawFn, now_ms: int) -> bytes | Poke:
    keys = draw(st.sampled_from(KEYS))
    choices: list[bytes | Poke] = [
        entry_command(keys),
        read_command(read_prefix(keys), draw(user_keys)),
        set_identity(draw(st.sampled_from([b"one", b"two"]))),
        pack_command(b"GET", IDENTITY_KEY),
        pack_command(b"EVALSHA", b"0" * 40, b"0"),
        Poke(keys.data, user_field(draw(user_keys)), draw(records(now_ms))),
        Poke(keys.data, user_field(draw(user_keys)), draw(registers(now_ms))),
        Poke(keys.data, FENCE_FIELD, draw(fences(now_ms, (Role.OWNER,)))),
        Poke(keys.data, FENCE_FIELD, draw(fences(now_ms, (Role.OWNER,)))),
        pack_command(b"DEL", keys.data),
        *repair_commands(draw, keys, now_ms),
    ]
    return draw(st.sampled_from(choices))


def repair_commands(draw: st.DrawFn, keys: BucketKeys, now_ms: int) -> list[bytes | Poke]:
    epoch, life, leaves = draw(st.sampled_from([3, 3, 2])), 2 if draw(rarely) else 1, draw(FEW)
    step = {"cursor": b"0", "count": 100, "leaves": leaves}
    sha = SCRIPTS["identity_replace"].sha
    identities = st.sampled_from([b"", b"one", b"two"])
    return [
        digest_command(keys, epoch, life, **step),  # type: ignore[arg-type]
        entries_command(keys, epoch, life, wanted=range(draw(FEW) % leaves + 1), **step),  # type: ignore[arg-type]
        list_command(keys, epoch, life, prefix=draw(st.sampled_from([b"", b"", b"a", b"\x00"]))),
        list_command(keys, epoch, life, cursor=b"-1", count=draw(st.sampled_from([0, 10, 10_001]))),
        count_command(keys, epoch, life),
        promises_command(keys, epoch, life, cursor=b"0", count=100),
        drop_command(keys, epoch, life, user_field(draw(user_keys))),
        overwrite_fence(keys, draw(fences(now_ms, (Role.JOINING, Role.OWNER))), b"entry 3"),
        pack_command(
            b"EVALSHA", sha, b"1", IDENTITY_KEY, draw(identities), b"one" + draw(identities)
        ),
    ]


def carry_out(subject: FakeSubject | ServerSubject, command: bytes | Poke) -> object:
    if isinstance(command, Poke):
        subject.poke(command.key, command.field, command.value)
        return None
    reply = subject.execute(command)
    if isinstance(reply, Exception):
        return str(reply).partition(" ")[0]
    if isinstance(reply, list) and reply and reply[0] == b"SKEWED":
        # The servers' clocks differ by the time that passed between them.
        assert abs(reply[3] - subject.now_ms()) < MINUTE_MS // 2
        return [*reply[:3], "the server's clock"]
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], list):
        return [reply[0], sorted(reply[1])]  # a listing, as below
    if isinstance(reply, list) and len(reply) == 3 and isinstance(reply[2], list):
        flat = reply[2]  # entries: a server lists them in an order of its own
        return [*reply[:2], sorted(zip(flat[::2], flat[1::2], strict=True))]
    return reply


def state_of(subject: FakeSubject | ServerSubject) -> object:
    return [(subject.fields(keys.data), subject.log(keys.log)) for keys in KEYS]


@pytest.mark.slow
@given(data=st.data())
@settings(
    max_examples=250,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
def test_the_fake_answers_and_ends_up_as_a_real_server_does(
    server: ServerSubject, data: st.DataObject
) -> None:
    server.clear()
    fake = FakeSubject(server.now_ms())
    beginning = [create_fence(keys, FIRST_FENCE, b"") for keys in KEYS]
    more = data.draw(st.lists(commands(fake.at_ms), min_size=1, max_size=40))
    for command in [*beginning, *more]:
        assert carry_out(server, command) == carry_out(fake, command), command
    assert state_of(server) == state_of(fake)
