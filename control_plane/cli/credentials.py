"""How commands show a sidecar who they are: by a token, and over TLS by a certificate.

All of it comes from the environment: what a process was started with, others can see.
"""

import os
from pathlib import Path

import grpc

from control_plane.cli.errors import CommandError

TOKEN_VARIABLE = "DABBA_TOKEN"
CA_VARIABLE = "DABBA_TLS_CA"
CERT_VARIABLE = "DABBA_TLS_CERT"
KEY_VARIABLE = "DABBA_TLS_KEY"


def token_metadata() -> tuple[tuple[str, str], ...]:
    """For a sidecar that has rights. Raises CommandError."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not (token.isascii() and token.isprintable()):
        raise CommandError(f"{TOKEN_VARIABLE} is no token", "a token is one line of plain ASCII")
    return (("authorization", f"Bearer {token}"),) if token else ()


def tls_credentials() -> grpc.ChannelCredentials | None:
    """For a sidecar that speaks TLS; None: it is spoken to in the clear. Raises CommandError."""
    ca, cert, key = map(_pem, (CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE))
    if (cert is None) != (key is None):
        raise CommandError(
            f"{CERT_VARIABLE} and {KEY_VARIABLE} belong together", "give both, or none"
        )
    if ca is not None:
        return grpc.ssl_channel_credentials(ca, key, cert)
    if cert is not None:
        raise CommandError(
            f"{CERT_VARIABLE} is given without {CA_VARIABLE}",
            f"name the file of the sidecar's authority: export {CA_VARIABLE}=FILE",
        )
    return None


def _pem(variable: str) -> bytes | None:
    path = os.environ.get(variable, "")
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CommandError(
            f"{variable} is {path}: {error.strerror}", "name a PEM file that can be read"
        ) from None
