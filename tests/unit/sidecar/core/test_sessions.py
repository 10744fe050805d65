"""Session tokens: what they keep, and what is not believed."""

import base64
from random import Random

import pytest

from replicas.version import HybridClock
from sidecar.core.sessions import MAX_ENTRIES, MAX_TOKEN_BYTES, Seen, SessionKeys, place_of
from sidecar.errors import DataError, Fault, Reason

NOW_MS = 1_763_700_000_000
OLD_SECRET, NEW_SECRET = b"the former secret of many", b"the present secret of many"


def version(number: int) -> bytes:
    return HybridClock(b"writer-a").next(NOW_MS + number)


def keys(*secrets: bytes, cluster: str = "c") -> SessionKeys:
    return SessionKeys(cluster, secrets or (NEW_SECRET,))


def refused(opened: Seen | DataError, reason: Reason) -> str:
    assert isinstance(opened, DataError), opened
    assert opened.reason is reason
    assert opened.field == "session"
    return opened.message


def seen(count: int = 2) -> Seen:
    return Seen({place_of("ks", b"k%d" % n): version(n) for n in range(count)})


@pytest.mark.parametrize("count", [0, 1, MAX_ENTRIES])
@pytest.mark.parametrize("settled", [False, True])
def test_a_token_says_what_was_signed(count: int, settled: bool) -> None:
    told = Seen(seen(count).versions, settled_elsewhere=settled)
    token = keys().sign(told)
    opened = keys().open(token, NOW_MS + 100)
    assert isinstance(opened, Seen)
    assert opened.versions == told.versions
    assert opened.settled_elsewhere is settled
    assert len(token) <= MAX_TOKEN_BYTES
    assert token.replace(b"-", b"").replace(b"_", b"").isalnum()


def test_room_that_is_only_kept_is_not_in_the_token() -> None:
    told = seen(1)
    told.begin(7)
    opened = keys().open(keys().sign(told), NOW_MS + 100)
    assert isinstance(opened, Seen)
    assert 7 not in opened.versions


def test_every_changed_bit_and_every_length_is_refused() -> None:
    raw = base64.urlsafe_b64decode(keys().sign(seen(1)) + b"==")
    for at in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[at // 8] ^= 1 << at % 8
        opened = keys().open(base64.urlsafe_b64encode(changed).rstrip(b"="), NOW_MS + 100)
        assert isinstance(opened, DataError), at
        assert opened.reason in (Reason.SESSION_INVALID, Reason.SESSION_KEY_UNKNOWN)
    for length in range(len(raw)):
        cut = base64.urlsafe_b64encode(raw[:length]).rstrip(b"=")
        refused(keys().open(cut, NOW_MS + 100), Reason.SESSION_INVALID)


@pytest.mark.parametrize(
    "token", [b"", b"x", b"!" * 40, b"A" * 41, b"\xff" * 64, b"A" * (MAX_TOKEN_BYTES + 1)]
)
def test_what_is_no_token_is_refused_and_told_how_long_one_is(token: bytes) -> None:
    message = refused(keys().open(token, NOW_MS), Reason.SESSION_INVALID)
    assert "start a new session" in message


def test_random_bytes_are_never_a_token() -> None:
    rng = Random(1)
    for _ in range(2000):
        token = rng.randbytes(rng.randint(0, 200))
        assert isinstance(keys().open(token, NOW_MS), DataError)
        encoded = base64.urlsafe_b64encode(token).rstrip(b"=")
        assert isinstance(keys().open(encoded, NOW_MS), DataError)


def test_a_key_that_is_not_here_is_told_apart_and_what_to_do() -> None:
    opened = keys(OLD_SECRET).open(keys(NEW_SECRET).sign(seen()), NOW_MS + 100)
    assert "session_key_file" in refused(opened, Reason.SESSION_KEY_UNKNOWN)


def test_keys_are_changed_without_losing_a_session() -> None:
    before, between, after = keys(OLD_SECRET), keys(NEW_SECRET, OLD_SECRET), keys(NEW_SECRET)
    opened = between.open(before.sign(seen()), NOW_MS + 100)
    assert isinstance(opened, Seen)
    assert isinstance(after.open(between.sign(opened), NOW_MS + 100), Seen)


def test_a_token_of_another_cluster_is_refused_though_the_secret_is_the_same() -> None:
    opened = keys().open(keys(cluster="other").sign(seen()), NOW_MS + 100)
    refused(opened, Reason.SESSION_INVALID)


def test_a_version_from_the_future_is_not_believed() -> None:
    token = keys().sign(Seen({1: version(501)}))
    assert isinstance(keys().open(token, NOW_MS + 501), Seen)
    opened = keys().open(token, NOW_MS + 500)
    assert "1 ms further ahead" in refused(opened, Reason.SESSION_AHEAD)
    assert isinstance(opened, DataError)
    assert opened.fault is Fault.UNAVAILABLE


def test_a_short_secret_is_refused() -> None:
    for secrets in ([], [b"short"], [NEW_SECRET, b"x" * 15]):
        with pytest.raises(ValueError, match="16 bytes"):
            SessionKeys("c", secrets)


def test_versions_of_a_place_only_grow() -> None:
    told = Seen()
    for number in (1, 3, 2):
        assert told.begin(5)
        told.end(5, version(number))
    assert told.needed(5) == version(3)


def test_what_met_nothing_leaves_no_entry() -> None:
    told = Seen()
    assert told.begin(5)
    told.end(5, b"")
    assert told.versions == {}


def test_room_runs_out_for_good_and_those_inside_keep_theirs() -> None:
    told = Seen()
    for place in range(MAX_ENTRIES):
        assert told.begin(place)
    assert not told.begin(64)
    told.end(0, b"")  # failed: its room is free, but what was met at 64 is in no entry
    assert not told.begin(64)
    assert told.begin(1)
    assert told.settled_elsewhere


def test_what_has_no_entry_is_met_together() -> None:
    told = Seen({place: version(0) for place in range(MAX_ENTRIES)})
    for number in (5, 9, 7):
        assert not told.begin(100 + number)
        told.end(100 + number, version(number))
    opened = keys().open(keys().sign(told), NOW_MS + 100)
    assert isinstance(opened, Seen)
    assert opened.newest(100) == opened.newest(200) == version(9)
    assert opened.newest(0) == version(0)
    assert isinstance(keys().open(keys().sign(told), NOW_MS + 8), DataError)


def test_keyspaces_do_not_share_entries() -> None:
    assert place_of("a", b"k") != place_of("b", b"k")
