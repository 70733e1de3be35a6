"""The code of the documents: blocks with the marks that say what a test does with them.

A mark is a comment on the line before a block, which no reader sees:

- ``<!-- not run: REASON -->``: the tests leave it alone, for this reason.
- ``<!-- file: NAME -->``: it is the file of this name, which the blocks after it use.
- ``<!-- read as: KIND -->``: it is read as a file of this kind, see ``test_doc_code.py``.

A block without a mark is run. ``text`` is what a command printed, or a picture, and no code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = ("commands.md",)
"""Pages of which a test checks that they are what a script writes, and which show no code."""

PAGES = (
    "README.md",
    *(
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if path.name not in GENERATED and "results" not in path.parts
    ),
)
"""Every page with code: README and all below docs/ but the records' reports."""

_FENCE = re.compile(
    r"(?:^<!-- (?P<kind>[a-z ]+): (?P<mark>.+) -->\n)?^```(?P<language>.*)\n(?P<code>(?:.*\n)*?)^```$", re.M
)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: Its page, from the repository's root.
        line: The line of its fence.
        language: What stands behind the fence.
        code: Its lines.
        kind: ``"not run"``, ``"file"``, ``"read as"``, or nothing.
        mark: What the mark says.
    """

    page: str
    line: int
    language: str
    code: str
    kind: str = ""
    mark: str = ""

    @property
    def place(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The commands of a block of shell code, each on one line, without empty lines and comments."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["code"],
            found["kind"] or "",
            found["mark"] or "",
        )
        for found in _FENCE.finditer(text)
    ]
