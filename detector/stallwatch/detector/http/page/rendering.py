"""Templates: everything that a training job sends is text, and escaped."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from stallwatch.detector.http.access import is_signed_in
from stallwatch.detector.http.page import addresses, static_files, words
from stallwatch.detector.http.page.evidence import text as evidence_text
from stallwatch.detector.version import VERSION


@cache
def environment() -> Environment:
    """Templates of this package, with the words and addresses that they use."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for word in (
        words.number,
        words.seconds,
        words.ago,
        words.moment,
        words.percent,
        words.plain,
        words.ranks,
    ):
        made.filters[word.__name__] = word
    made.globals.update(
        asset=static_files.address,
        asset_version=static_files.version(),
        version=VERSION,
        run_address=addresses.run_address,
        finding_address=addresses.finding_address,
        rank_address=addresses.rank_address,
        runbook_address=addresses.runbook_address,
        api_address=addresses.api_address,
        picture_address=addresses.picture_address,
        evidence_text=evidence_text,
    )
    return made


def respond(request: Request, template: str, context: Mapping[str, Any], status: int = 200) -> Response:
    """A page; 304 where the browser has it already."""
    html = (
        environment()
        .get_template(template)
        .render(now=time.time(), signed_in=is_signed_in(request), **context)
    )
    etag = f'W/"{hashlib.sha256(html.encode()).hexdigest()[:32]}"'
    headers = {"etag": etag, "cache-control": "no-cache"}
    if status == 200 and etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return HTMLResponse(html, status_code=status, headers=headers)
