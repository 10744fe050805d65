"""TLS of the doors on TCP: contexts from certificate files, made anew when the files change.

A new context serves new connections; those that stand keep what they began with. Files that can not
be used leave the context before them in place, and `problem` says why.
"""

import asyncio
import ssl
from pathlib import Path
from typing import Any, Final, NamedTuple

from sidecar.config import SidecarConfig
from sidecar.watched_files import UnusableError, WatchedFiles

HANDSHAKE_TIMEOUT_S: Final = 10.0
_NAMES: Final = ("DNS", "URI", "email")  # kinds of subjectAltName that can be an identity


class PemFiles(NamedTuple):
    """What the files hold, for a library that reads none by itself."""

    key: bytes
    certificate: bytes
    client_ca: bytes | None


class Contexts(NamedTuple):
    """What the doors speak TLS with."""

    pem: PemFiles
    grpc: ssl.SSLContext
    redis: ssl.SSLContext


class Tls(WatchedFiles[Contexts]):
    """The contexts of both doors. Raises ConfigError when the first files can not be used."""

    def __init__(self, config: SidecarConfig) -> None:
        self._config = config
        self.identities = frozenset(config.tls_identities)
        files = (config.tls_cert, config.tls_key, config.tls_client_ca)
        super().__init__(filter(None, files), "the certificate")

    def refusal(self, transport: asyncio.BaseTransport) -> str:
        """Why the client of a connection may not come in; empty: it may."""
        if not self.identities or transport.get_extra_info("sslcontext") is None:
            return ""
        return self.refusal_of(identities_of(transport.get_extra_info("peercert") or {}))

    def refusal_of(self, names: frozenset[str]) -> str:
        """Why a client with these names in its certificate may not come in; empty: it may."""
        if not self.identities or self.identities & names:
            return ""
        shown = ", ".join(sorted(names)) or "no name"
        return f"the client's certificate is of {shown}, which is not among tls_identities"

    def _make(self) -> Contexts:
        config = self._config
        try:
            ca = config.tls_client_ca
            pem = PemFiles(
                Path(config.tls_key).read_bytes(),
                Path(config.tls_cert).read_bytes(),
                Path(ca).read_bytes() if ca else None,
            )
            grpc, redis = self._context(), self._context()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise UnusableError(_sentence(config, error)) from None
        grpc.set_alpn_protocols(["h2"])
        return Contexts(pem, grpc, redis)

    def _context(self) -> ssl.SSLContext:
        config = self._config
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(config.tls_cert, config.tls_key, password=_no_password)
        if config.tls_client_ca:
            context.load_verify_locations(config.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def make_tls(config: SidecarConfig) -> Tls | None:
    """None: the doors speak in the clear. Raises ConfigError."""
    return Tls(config) if config.tls_cert else None


def identities_of(certificate: dict[str, Any]) -> frozenset[str]:
    """The names in a verified certificate, as SSLSocket.getpeercert gives it: of its
    subjectAltName, else its common name.
    """
    names = {value for kind, value in certificate.get("subjectAltName", ()) if kind in _NAMES}
    if not names:
        parts = (pair for part in certificate.get("subject", ()) for pair in part)
        names = {value for kind, value in parts if kind == "commonName"}
    return frozenset(names)


def _sentence(config: SidecarConfig, error: Exception) -> str:
    files = f"tls_cert {config.tls_cert}, tls_key {config.tls_key}"
    if config.tls_client_ca:
        files += f", tls_client_ca {config.tls_client_ca}"
    return f"{files}: {error}; give PEM files that belong together"


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one that is not")
