"""The doors' certificates when their files can not be read for a while."""

import ssl
from pathlib import Path

import pytest
import trustme

from sidecar.config import SidecarConfig
from sidecar.net.tls import Tls


def test_files_that_could_not_be_read_are_tried_again_though_they_did_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, chain = tmp_path / "key", tmp_path / "chain"
    authority = trustme.CA()

    def renew() -> None:
        made = authority.issue_cert("localhost")
        made.private_key_pem.write_to_path(str(key))
        made.cert_chain_pems[0].write_to_path(str(chain))

    renew()
    tls = Tls(SidecarConfig("c", "a", tls_cert=str(chain), tls_key=str(key)))
    before = tls.made.redis
    renew()
    with monkeypatch.context() as full:

        def refused(_path: Path) -> bytes:
            raise OSError(24, "Too many open files")

        full.setattr(Path, "read_bytes", refused)
        assert not tls.reload()
        assert "keeps the certificate it had" in tls.problem
    assert tls.made.redis is before
    assert tls.reload()
    assert isinstance(tls.made.redis, ssl.SSLContext)
    assert (tls.made.redis is before, tls.problem) == (False, "")
