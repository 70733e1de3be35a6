"""The page for people."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files


def read_page() -> tuple[str, str]:
    """The page, and the policy of what its browser may run and load: its own script and style, and its own server."""
    text = files("promptwise.serving").joinpath("page.html").read_text(encoding="utf-8")
    allowed = {}
    for tag in ("script", "style"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        allowed[tag] = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    return text, (
        f"default-src 'none'; script-src 'sha256-{allowed['script']}'; style-src 'sha256-{allowed['style']}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
