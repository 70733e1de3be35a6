"""What the documents show is what the program has."""

from __future__ import annotations

import re
import runpy
import shlex
from collections import defaultdict
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from click import Context, Group

from promptwise.cli.main import cli
from tests.integration.doc_blocks import PAGES, ROOT, blocks_of

DOCS = ROOT / "docs"
LINKED = (*PAGES, "LOG.md", "docs/commands.md", *(str(path.relative_to(ROOT)) for path in DOCS.glob("results/*/*.md")))


def shown_commands(page: str) -> list[str]:
    """Every ``promptwise ...`` line in a block of shell commands of a page, whether it is run or not."""
    lines = [line for block in blocks_of(page) if block.language == "bash" for line in block.commands]
    return [line.partition(" > ")[0] for line in lines if line.startswith("promptwise ")]


def test_readme_shows_commands() -> None:
    """The tests below see something."""
    assert len(shown_commands("README.md")) >= 5


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_parse(page: str) -> None:
    """Each names a command and flags that exist, with values that are accepted."""
    for line in shown_commands(page):
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
        assert context.params or line in ("promptwise strategies", "promptwise tasks"), line


def test_commands_page_is_up_to_date() -> None:
    """``docs/commands.md`` is what ``docs/make_commands.py`` writes."""
    module = runpy.run_path(str(ROOT / "docs" / "make_commands.py"))
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == module["commands_page"]()


def test_leaderboard_is_up_to_date() -> None:
    """``docs/leaderboard.md`` is what ``docs/make_leaderboard.py`` makes of the records."""
    module = runpy.run_path(str(DOCS / "make_leaderboard.py"))
    assert (DOCS / "leaderboard.md").read_text(encoding="utf-8") == module["leaderboard_page"]()


def test_every_result_has_a_date_a_commit_and_a_command() -> None:
    """No record is committed without them, and none is spoken of that is not there."""
    sources = yaml.safe_load((DOCS / "results" / "sources.yaml").read_text(encoding="utf-8"))
    page = (DOCS / "leaderboard.md").read_text(encoding="utf-8")
    assert set(sources) == {path.name for path in (DOCS / "results").iterdir()} - {"sources.yaml"}
    for name, source in sources.items():
        assert source["date"] >= date(2026, 11, 23), name
        assert re.fullmatch(r"[0-9a-f]{7}", source["commit"]), name
        assert f"{source['date']}, commit `{source['commit']}`" in page
        assert source["command"].split()[0] in ("promptwise", "python"), name


def test_places_on_the_leaderboard_are_those_of_the_means() -> None:
    """In each table the means fall from place to place."""
    page = (DOCS / "leaderboard.md").read_text(encoding="utf-8")
    tables = [table for table in re.split(r"^## ", page, flags=re.MULTILINE)[1:] if "| 1. " in table]
    assert len(tables) >= 11
    for table in tables:
        rows = [line.split(" | ") for line in table.splitlines() if re.match(r"\| \d+\. ", line)]
        means = [float(row[-2].split()[0]) for row in rows if row[-2] != "-"]
        assert means == sorted(means, reverse=True)
        assert [int(re.findall(r"\d+", row[0])[0]) for row in rows] == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("picture", sorted(DOCS.glob("pictures/*.svg")), ids=lambda path: path.name)
def test_pictures_can_be_read_on_a_telephone_and_in_the_dark(picture: Path) -> None:
    """No letter is smaller than 12 of 360 pixels' width, every colour has a dark one, and nothing is loaded."""
    text = picture.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    width = float(root.attrib["viewBox"].split()[2])
    sizes = [float(size) for size in re.findall(r"(?:font: |font-size: )([\d.]+)px", text)]
    assert sizes
    assert min(sizes) * 360 / width >= 12
    light, dark = (set(re.findall(r"(--\w+):", part)) for part in text.partition("prefers-color-scheme: dark")[::2])
    assert light == dark == set(re.findall(r"var\((--\w+)\)", text))
    assert "href" not in text
    assert len(root.findtext("{*}desc", "").split()) > 8


def test_every_page_is_in_the_navigation() -> None:
    """And what the navigation names is there."""
    navigation = (
        (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2].partition("\nexclude_docs:")[0]
    )
    named = set(re.findall(r": ([\w/-]+\.md)$", navigation, flags=re.MULTILINE))
    pages = {str(Path(page).relative_to("docs")) for page in PAGES if page.startswith("docs/")}
    assert named == (pages - {"data/README.md"}) | {"commands.md", "LOG.md", "CHANGELOG.md"}


def test_passages_that_pages_share_are_equal() -> None:
    """What stands on several pages, between comments that name it, is the same on each."""
    passages: dict[str, list[str]] = defaultdict(list)
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        found = re.findall(r"^<!-- shared passage: (.+) -->\n(.*?)^<!-- end of passage: \1 -->$", text, re.M | re.S)
        assert len(found) == text.count("<!-- shared passage"), page
        for name, passage in found:
            passages[name].append(passage)
    assert {"demo", "results"} <= set(passages)
    for name, copies in passages.items():
        assert len(copies) > 1, name
        assert len(set(copies)) == 1, name


@pytest.mark.parametrize("page", LINKED)
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
