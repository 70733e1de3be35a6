"""What the documents show is what the program has."""

from __future__ import annotations

import re
import runpy
import shlex
import textwrap
from pathlib import Path

import pytest
from click import Context, Group

from promptwise.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "LOG.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


def shown_commands() -> list[str]:
    """Every ``promptwise ...`` line in a block of shell commands of the README."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = textwrap.dedent("\n".join(blocks)).replace("\\\n", " ").splitlines()
    return [line.partition(" > ")[0] for line in lines if line.startswith("promptwise ")]


def test_readme_shows_commands() -> None:
    """The tests below see something."""
    assert len(shown_commands()) >= 6


@pytest.mark.parametrize("line", shown_commands())
def test_commands_of_the_readme_parse(line: str) -> None:
    """Each names a command and flags that exist, with values that are accepted."""
    arguments = shlex.split(line, comments=True)[1:]
    context = Context(cli, info_name="promptwise", **cli.context_settings)
    while isinstance(context.command, Group):
        name, *arguments = arguments
        inner = context.command.commands[name]
        # A group's context would take the name of its command for an argument of its own.
        context = (
            Context(inner, info_name=name, parent=context)
            if isinstance(inner, Group)
            else inner.make_context(name, arguments, parent=context)
        )
    assert context.params


def test_commands_page_is_up_to_date() -> None:
    """``docs/commands.md`` is what ``docs/make_commands.py`` writes."""
    module = runpy.run_path(str(ROOT / "docs" / "make_commands.py"))
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == module["commands_page"]()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Relative links name files that exist."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_makefile_targets_of_the_readme_exist() -> None:
    """``make X`` in the README is a target."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`?make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
