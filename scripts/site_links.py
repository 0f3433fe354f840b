# ruff: noqa: INP001  MkDocs loads it by its path
"""A hook of MkDocs: links that lead out of docs/ into the repository become the path that they lead to.

In the repository such a link opens the file; the site does not have it. A link to nothing is left as it is, and is then an error.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[(?P<text>[^\]\n]+)\]\((?P<target>\.\./[^)\s#]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Called by MkDocs with each page."""
    docs = Path(config["docs_dir"])
    root = docs.parent
    folder = (docs / page.file.src_uri).parent

    def replace(match: re.Match[str]) -> str:
        aim = Path(os.path.normpath(folder / match["target"]))
        if aim.is_relative_to(docs) or not aim.is_relative_to(root) or not aim.exists():
            return match[0]
        path, text = aim.relative_to(root).as_posix(), match["text"].strip("`")
        return f"`{path}`" if text in path else f"{match['text']} (`{path}`)"

    return _LINK.sub(replace, markdown)
