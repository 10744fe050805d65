"""README.md lists every fault, checker and variant."""

import re
from pathlib import Path

from tests.sim.broken import VARIANTS
from tests.sim.checkers import CHECKERS, REGISTER_CHECKERS
from tests.sim.faults import KINDS


def test_the_readme_lists_what_there_is() -> None:
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    checkers = {checker.__name__ for checker in (*CHECKERS, *REGISTER_CHECKERS)}
    assert listed == checkers | KINDS.keys() | VARIANTS.keys()
