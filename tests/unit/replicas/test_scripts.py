"""The sources of the scripts."""

import pytest

from replicas.scripts import SCRIPTS

MOST_BEFORE_A_PASSWORD = 16 << 10


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_server_takes_them_before_it_has_a_password(name: str) -> None:
    """Otherwise it breaks the connection, and nobody learns what it wants."""
    assert len(SCRIPTS[name].source) < MOST_BEFORE_A_PASSWORD
