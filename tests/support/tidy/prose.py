"""Rules about text: the project speaks of itself alone, and runs on any machine."""

import re
from collections.abc import Sequence

from tests.support.tidy.source import Source

# Patterns are written so that they do not match this file.
BANNED = (
    (r"(?<![\w.>])/(?:roo[t]|wor[k]|hom[e])/\w", "a path of one machine; use a relative one"),
    (r"\bissues? #?\d", "an issue by its number; say what is the case"),
    (r"\b(?:claud[e]|chatgp[t]|copilo[t]|anthropi[c]|opena[i])\b", "a tool; say what is the case"),
    (r"\b(?:pyp[i]\.org|pythonhoste[d]\.org|npmj[s]\.org|de[b]\.debian\.org)\b", "a registry"),
)
_NOT_PROSE = (".lock",)


def speaks_of_itself(sources: Sequence[Source]) -> list[str]:
    """No text names a machine's paths, an issue tracker, a registry or a tool."""
    rules = [(re.compile(pattern, re.IGNORECASE), what) for pattern, what in BANNED]
    problems = []
    for source in sources:
        if source.path.suffix in _NOT_PROSE or source.generated:
            continue
        for number, line in enumerate(source.text.splitlines(), 1):
            for pattern, what in rules:
                if match := pattern.search(line):
                    said = f"names {match[0]!r}, {what}"
                    problems.append(source.problem(number, f"{said}: reword it without"))
    return problems


_PAGE = re.compile(r"[\w-]+\.md\b")


def named_pages_exist(sources: Sequence[Source]) -> list[str]:
    """A page that a text refers to is a page of the project."""
    pages = {source.path.name for source in sources if source.path.suffix == ".md"}
    return [
        source.problem(number, f"refers to {name}, which is not here; say what it says instead")
        for source in sources
        if not source.generated
        for number, line in enumerate(source.text.splitlines(), 1)
        for name in _PAGE.findall(line)
        if name not in pages
    ]


_ADDRESS = re.compile(r"://|\bfile:|^-|@ |^\.{0,2}/")


def locks_name_no_address(sources: Sequence[Source]) -> list[str]:
    """A lock file holds names, versions and hashes: it works with any index."""
    return [
        source.problem(number, "holds an address, a path or an option; renew it with make lock")
        for source in sources
        if source.path.suffix == ".lock"
        for number, line in enumerate(source.text.splitlines(), 1)
        if _ADDRESS.search(line)
    ]
