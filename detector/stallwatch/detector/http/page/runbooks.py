"""Runbooks: a Markdown page for every kind, rendered; the same files as in docs/, which a wheel carries along."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from stallwatch.detector.http.page.addresses import runbook_address

_FOLDERS = ("causes", "findings", "runbooks")
_PACKAGED = Path(__file__).parent / "documents"
_CHECKOUT = Path(__file__).parents[5] / "docs"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z")


def root() -> Path:
    """Where the pages are: docs/ of a checkout, else what the wheel brought."""
    return _CHECKOUT if (_CHECKOUT / _FOLDERS[0]).is_dir() else _PACKAGED


@cache
def names() -> tuple[str, ...]:
    """Every page there is."""
    return tuple(sorted(_paths()))


@cache
def rendered(name: str) -> str | None:
    """A page as HTML; None when there is none of that name."""
    path = _paths().get(name)
    return render(path.read_text(encoding="utf-8")) if path is not None else None


@cache
def _paths() -> dict[str, Path]:
    return {
        path.stem: path
        for folder in _FOLDERS
        for path in sorted((root() / folder).glob("*.md"))
        if _NAME.match(path.stem) and path.stem not in ("README", "index")
    }


def render(text: str) -> str:
    """Markdown as HTML: markup in it stays text, and links lead to runbooks or to the outside."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("link_open", _link_open)
    markdown.add_render_rule("link_close", _link_close)
    markdown.add_render_rule("image", _image)
    markdown.add_render_rule(
        "table_open", lambda *_: '<div class="scroll" tabindex="0" role="group" aria-label="table"><table>'
    )
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return str(markdown.render(text))


def _target(href: str) -> str | None:
    """Where a link leads on the page; None when it leads to a document that is not served."""
    parts = urlsplit(href)
    if parts.scheme in ("http", "https"):
        return href
    if parts.scheme or parts.netloc:
        return None
    if not parts.path:
        return href
    stem = Path(parts.path).stem
    if not parts.path.endswith(".md") or stem not in _paths():
        return None
    return runbook_address(stem) + (f"#{parts.fragment}" if parts.fragment else "")


def _link_open(
    _renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: OptionsDict, env: EnvType
) -> str:
    target = _target(str(tokens[index].attrGet("href") or ""))
    env.setdefault("links", []).append(target is not None)
    if target is None:
        return ""
    outside = ' rel="noopener noreferrer"' if target.startswith("http") else ""
    return f'<a href="{escape(target)}"{outside}>'


def _link_close(
    _renderer: RendererHTML, _tokens: Sequence[Token], _index: int, _options: OptionsDict, env: EnvType
) -> str:
    return "</a>" if env["links"].pop() else ""


def _image(
    _renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: OptionsDict, _env: EnvType
) -> str:
    # Pictures are not served, and none is fetched from elsewhere.
    return escape(tokens[index].content)
