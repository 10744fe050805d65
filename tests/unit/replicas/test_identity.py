import pytest

from replicas.identity import Identity, decode_identity

IDENTITY = Identity("dev", "node-a", 3)


def test_an_identity_is_readable_json_and_comes_back() -> None:
    raw = IDENTITY.encode()
    assert raw == b'{"cluster":"dev","node":"node-a","incarnation":3}'
    assert decode_identity(raw) == IDENTITY


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"{}", b'"dev"', b'{"cluster":"dev","node":"a"}', b"\xff"],
)
def test_anything_else_is_none(raw: bytes) -> None:
    assert decode_identity(raw) is None


def test_another_incarnation_is_the_same_node() -> None:
    assert IDENTITY.names_same_node(Identity("dev", "node-a", 4))
    assert not IDENTITY.names_same_node(Identity("dev", "node-b", 3))
    assert not IDENTITY.names_same_node(Identity("prod", "node-a", 3))
