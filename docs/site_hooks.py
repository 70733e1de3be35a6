"""What mkdocs asks for while it builds the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BESIDE = ("LOG.md", "CHANGELOG.md")
"""Pages that lie beside docs/ in the repository and in it on the site."""

REMOTE = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](?:https?:)?//|<link\b[^>]*\bhref=["'](?:https?:)?//"""
)
STYLE = re.compile(r"""(?:url\(|@import\s+)["']?(?:https?:)?//""")


def on_files(files: Files, config: Any) -> Files:
    """Take the pages from beside docs/ in."""
    for name in BESIDE:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to those pages, which lie one folder up in the repository, to their places on the site."""
    return re.sub(r"\]\(((?:\.\./)*)\.\./(LOG|CHANGELOG)\.md", r"](\1\2.md", markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load something from another server."""
    found = REMOTE.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} would load something from another server: {found[0]}")
    return output


def on_post_build(config: Any) -> None:
    """Refuse a style sheet that would do so."""
    for path in Path(config["site_dir"]).rglob("*.css"):
        found = STYLE.search(path.read_text(encoding="utf-8"))
        if found:
            raise PluginError(f"{path} would load something from another server: {found[0]}")
