"""Who may do what at the doors: applications, how they are known, and their rights by keyspace.

Pure: `parse_rights` takes what a rights_file holds. Once there are rights, what is not granted is
denied.
"""

import enum
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

EVERY_KEYSPACE: Final = "*"
ANONYMOUS: Final = "anonymous"
DENIED: Final = "denied_"  # so the names of these counts begin
MOST_TOKENS: Final = 256  # each is compared with what a client brings, a quarter of a us each
_MOST_NAME_BYTES: Final = 128
# "default" is what Redis clients call themselves when they are given a password alone.
_RESERVED: Final = (ANONYMOUS, "default")
_HOW_TO: Final = "printf %s TOKEN | sha256sum"


class RightsError(Exception):
    """A rights_file can not be used. The text never quotes what might be a token."""


class Verb(enum.IntFlag):
    """What may be done in a keyspace."""

    READ = 1
    WRITE = 2

    def shown(self) -> str:
        """As a rights_file says it: `read`, `write`, `read and write`."""
        return " and ".join(verb.name.lower() for verb in Verb if verb in self and verb.name)


NOTHING: Final = Verb(0)
BOTH: Final = Verb.READ | Verb.WRITE
_VERBS: Final = {verb.name.lower(): verb for verb in Verb if verb.name}


class Peer(NamedTuple):
    """What a connection tells of its client by itself."""

    identities: frozenset[str] = frozenset()  # names in a certificate that was verified
    uid: int | None = None  # at the other end of a Unix socket


STRANGER: Final = Peer()


@dataclass(frozen=True, slots=True)
class Holder:
    """An application and what it may do, by keyspace."""

    name: str
    grants: Mapping[str, Verb]

    def verbs(self, keyspace: str) -> Verb:
        """What it may do there."""
        grants = self.grants
        return grants.get(keyspace, NOTHING) | grants.get(EVERY_KEYSPACE, NOTHING)

    @property
    def is_nobody(self) -> bool:
        """Whether nobody has authenticated, and nothing is granted to whom nobody knows."""
        return self.name == ANONYMOUS and not self.grants


@dataclass(frozen=True, slots=True)
class Rights:
    """All applications. No token, identity or user is of two of them."""

    anonymous: Holder
    tokens: Sequence[tuple[bytes, Holder]] = ()  # SHA-256 of each
    identities: Mapping[str, Holder] = field(default_factory=dict)
    uids: Mapping[int, Holder] = field(default_factory=dict)

    def by_digest(self, digest: bytes) -> Holder | None:
        """Whose token has this digest. Takes as long for every digest."""
        found = None
        for known, holder in self.tokens:
            if hmac.compare_digest(known, digest):
                found = holder
        return found

    def by_peer(self, peer: Peer) -> Holder:
        """Who is known without a token: by the certificate, or by the Unix user."""
        for identity in sorted(peer.identities):
            if identity in self.identities:
                return self.identities[identity]
        holder = self.uids.get(peer.uid) if peer.uid is not None else None
        return holder or self.anonymous


class Denials:
    """How often somebody was denied something at a door, by kind, since the start."""

    __slots__ = ("no_right", "no_token", "unknown_token")

    def __init__(self) -> None:
        self.no_token = 0  # who says nothing of who it is
        self.unknown_token = 0  # who says what is nobody's
        self.no_right = 0  # who is known

    def numbers(self) -> dict[str, int]:
        """Everything by name: `denied_no_right` and so on."""
        return {DENIED + kind: getattr(self, kind) for kind in self.__slots__}


def token_digest(token: bytes) -> bytes:
    """What is kept and compared of a token."""
    return hashlib.sha256(token).digest()


class _Application(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    rights: dict[str, list[str]]
    tokens_sha256: list[str] = []
    identities: list[str] = []
    unix_users: list[str | int] = []


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    applications: list[_Application] = []
    anonymous: dict[str, list[str]] = {}


def parse_rights(content: Mapping[str, object], uid_of: Callable[[str], int]) -> Rights:
    """What a rights_file says. `uid_of` looks a user's name up, or raises KeyError.

    Raises RightsError.
    """
    try:
        file = msgspec.convert(content, _File)
    except msgspec.ValidationError as error:
        raise RightsError(str(error)) from None
    tokens: dict[bytes, Holder] = {}
    identities: dict[str, Holder] = {}
    uids: dict[int, Holder] = {}
    names: set[str] = set()
    for application in file.applications:
        _check_name(application.name, names)
        names.add(application.name)
        holder = Holder(application.name, _grants(application.name, application.rights))
        if not (application.tokens_sha256 or application.identities or application.unix_users):
            raise RightsError(
                f"nothing says who is application {holder.name!r};"
                " give it tokens_sha256, identities or unix_users"
            )
        for number, text in enumerate(application.tokens_sha256):
            _take(tokens, _digest(holder.name, number, text), holder, f"tokens_sha256[{number}]")
        for identity in application.identities:
            _take(identities, identity, holder, f"identity {identity!r}")
        for user in application.unix_users:
            _take(uids, _uid(holder.name, user, uid_of), holder, f"unix user {user!r}")
    if len(tokens) > MOST_TOKENS:
        raise RightsError(f"it has {len(tokens)} tokens; it may have {MOST_TOKENS}")
    anonymous = Holder(ANONYMOUS, _grants(ANONYMOUS, file.anonymous))
    return Rights(anonymous, tuple(tokens.items()), identities, uids)


def _check_name(name: str, names: set[str]) -> None:
    printable = name.isascii() and name.isprintable() and " " not in name
    if not 1 <= len(name) <= _MOST_NAME_BYTES or not printable:
        raise RightsError(
            f"an application's name has 1 to {_MOST_NAME_BYTES} characters of ASCII without spaces"
        )
    if name in _RESERVED:
        raise RightsError(f"no application may be named {name!r}; call it otherwise")
    if name in names:
        raise RightsError(f"there are two applications {name!r}; make one of them")


def _grants(name: str, rights: Mapping[str, Sequence[str]]) -> dict[str, Verb]:
    grants: dict[str, Verb] = {}
    for keyspace, words in rights.items():
        verbs = NOTHING
        for word in words:
            if word not in _VERBS:
                known = ", ".join(_VERBS)
                raise RightsError(
                    f"{word!r} in keyspace {keyspace!r} of {name!r} is no right; use {known}"
                )
            verbs |= _VERBS[word]
        if verbs:
            grants[keyspace] = verbs
    return grants


def _digest(name: str, number: int, text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    # fromhex takes spaces too.
    if len(text) != 2 * len(digest) or len(digest) != hashlib.sha256().digest_size:
        raise RightsError(
            f"tokens_sha256[{number}] of application {name!r} is no SHA-256 in 64 hexadecimal"
            f" digits; make it with: {_HOW_TO}"
        )
    if digest == token_digest(b""):
        raise RightsError(
            f"tokens_sha256[{number}] of application {name!r} is that of an empty token;"
            " make a token with: openssl rand -hex 32"
        )
    return digest


def _uid(name: str, user: str | int, uid_of: Callable[[str], int]) -> int:
    if isinstance(user, int):
        return user
    try:
        return uid_of(user)
    except (KeyError, ValueError):  # what can be no name of a user is a ValueError
        raise RightsError(
            f"unix user {user!r} of application {name!r} is not known on this host;"
            " create it, or give its number"
        ) from None


def _take(known: dict[Any, Holder], key: object, holder: Holder, what: str) -> None:
    if key in known:
        raise RightsError(
            f"{what} of application {holder.name!r} is one of {known[key].name!r} already;"
            " it can be of one application"
        )
    known[key] = holder
