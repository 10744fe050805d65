"""Who is known by what, what is granted, and what a rights_file may not say."""

import hashlib
import hmac

import pytest

from sidecar.rights import (
    ANONYMOUS,
    BOTH,
    NOTHING,
    STRANGER,
    Peer,
    Rights,
    RightsError,
    Verb,
    parse_rights,
    token_digest,
)

TOKEN = "0c4f" * 16
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
OTHER_HASH = hashlib.sha256(b"other").hexdigest()


def application(named: str = "orders", /, **more: object) -> dict[str, object]:
    rights = {"default": ["read"]}
    return {"name": named, "rights": rights, "tokens_sha256": [HASH]} | more


def parsed(*applications: dict[str, object], **more: object) -> Rights:
    users = {"alice": 1001, "bob": 1002}
    return parse_rights({"applications": list(applications)} | more, users.__getitem__)


def refusal(*applications: dict[str, object], **more: object) -> str:
    with pytest.raises(RightsError) as caught:
        parsed(*applications, **more)
    return str(caught.value)


def test_an_application_is_known_by_its_token_alone() -> None:
    rights = parsed(application())
    found = rights.by_digest(token_digest(TOKEN.encode()))
    assert found is not None
    assert found.name == "orders"
    for wrong in (b"", b"wrong", HASH.encode(), TOKEN.upper().encode()):
        assert rights.by_digest(token_digest(wrong)) is None


def test_an_application_is_known_by_its_certificate_or_its_user() -> None:
    rights = parsed(
        application("web", tokens_sha256=[], identities=["web.example"]),
        application("batch", tokens_sha256=[], unix_users=["alice", 7]),
    )
    assert rights.by_peer(Peer(frozenset({"x.example", "web.example"}))).name == "web"
    assert [rights.by_peer(Peer(uid=uid)).name for uid in (1001, 7)] == ["batch"] * 2
    for stranger in (STRANGER, Peer(frozenset({"x.example"})), Peer(uid=0), Peer(uid=1002)):
        assert rights.by_peer(stranger).name == ANONYMOUS


def test_rights_of_a_keyspace_and_of_all_add_up_and_nothing_else_is_granted() -> None:
    rights = parsed(application(rights={"*": ["read"], "a": ["write"], "b": []}))
    [(_, holder)] = rights.tokens
    assert [holder.verbs(name) for name in ("a", "b", "c")] == [BOTH, Verb.READ, Verb.READ]
    [(_, holder)] = parsed(application(rights={"a": ["write"]})).tokens
    assert [holder.verbs(name) for name in ("a", "b", "A", "")] == [Verb.WRITE] + [NOTHING] * 3


def test_nothing_is_granted_to_anonymous_but_what_is_said() -> None:
    assert parsed(application()).anonymous.is_nobody
    assert parsed().anonymous.verbs("default") == NOTHING
    open_to_all = parsed(anonymous={"metrics": ["read"]}).anonymous
    assert not open_to_all.is_nobody
    assert open_to_all.verbs("metrics") == Verb.READ


def test_every_token_is_compared_whole_whichever_is_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def counting(known: bytes, digest: bytes) -> bool:
        compared.append(known)
        return compare(known, digest)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    tokens = [b"token %d" % number for number in range(5)]
    hashes = [hashlib.sha256(token).hexdigest() for token in tokens]
    rights = parsed(*(application(f"a{n}", tokens_sha256=[text]) for n, text in enumerate(hashes)))
    for token in (tokens[0], tokens[4], b"wrong"):
        compared.clear()
        rights.by_digest(token_digest(token))
        assert [digest.hex() for digest in compared] == hashes


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"rights": {"default": ["admin"]}}, "'admin' in keyspace 'default' of 'orders' is no"),
        ({"rights": {"default": "read"}}, "Expected `array`"),
        ({"tokens_sha256": []}, "nothing says who is application 'orders'"),
        (
            {"tokens_sha256": [OTHER_HASH, OTHER_HASH]},
            "tokens_sha256[1] of application 'orders' is",
        ),
        ({"tokens_sha256": [token_digest(b"").hex()]}, "is that of an empty token"),
        ({"name": "two words"}, "without spaces"),
        ({"name": ""}, "1 to 128 characters"),
        ({"name": "default"}, "no application may be named 'default'"),
        ({"name": "anonymous"}, "no application may be named 'anonymous'"),
        ({"unix_users": ["nobody knows"]}, "is not known on this host"),
        ({"token": "x"}, "unknown field"),
    ],
)
def test_what_can_not_be_meant_is_refused(given: dict[str, object], why: str) -> None:
    assert why in refusal(application(**given))


def test_nobody_is_two_applications() -> None:
    other = application("other", tokens_sha256=[OTHER_HASH], identities=["a"], unix_users=[1001])
    assert "two applications 'orders'" in refusal(application(), application())
    assert "is one of 'other' already" in refusal(other, application(tokens_sha256=[OTHER_HASH]))
    assert "identity 'a'" in refusal(other, application(identities=["a"]))
    assert "unix user 'alice'" in refusal(other, application(unix_users=["alice"]))


@pytest.mark.parametrize("wrong", [TOKEN[:-1], f"{TOKEN}!", "my secret", "x" * 64, f"{HASH} "])
def test_a_token_where_its_hash_belongs_is_refused_and_never_quoted(wrong: str) -> None:
    said = refusal(application(tokens_sha256=[wrong]))
    assert "tokens_sha256[0] of application 'orders' is no SHA-256" in said
    assert wrong.strip() not in said
