"""The page's own files, under an address with their hash in it, so that browsers may keep them for good."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".md": "text/plain"}


@cache
def files() -> dict[str, bytes]:
    """Every file by its path below /static: a few, and small."""
    return {
        path.relative_to(FOLDER).as_posix(): path.read_bytes()
        for path in sorted(FOLDER.rglob("*"))
        if path.is_file()
    }


@cache
def version() -> str:
    """The hash of them all: modules that import one another stay of one version."""
    digest = hashlib.sha256()
    for name, content in files().items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def address(name: str) -> str:
    """Where a file is served; a name that is none is a mistake in a template."""
    if name not in files():
        raise KeyError(f"there is no static file {name}")
    return f"/static/{version()}/{name}"


async def serve(request: Request) -> Response:
    """`GET /static/{version}/{name}`."""
    name = request.path_params["name"]
    content = files().get(name)
    if content is None or request.path_params["version"] != version():
        raise HTTPException(404)
    suffix = Path(name).suffix
    media_type = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(
        content, media_type=media_type, headers={"cache-control": "public, max-age=31536000, immutable"}
    )
