"""Docstrings name other parts in Sphinx's way, ``:class:`Backbone```; the site shows the name alone, as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?\.?([^`]+)`")


def plain(text: str) -> str:
    """The text with the last part of each name that a role points to, and with Markdown's single backticks for code."""
    text = ROLE.sub(lambda found: f"`{found[1].rpartition('.')[2]}`" if "~" in found[0] else f"`{found[1]}`", text)
    return re.sub(r"(?<!`)``(?!`)", "`", text)


class Roles(griffe.Extension):
    """Rewrite each docstring when it has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """An object was made."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)
