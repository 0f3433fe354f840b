"""The page: runs, findings, ranks and runbooks as HTML that the server renders and that works without JavaScript."""

from __future__ import annotations

from stallwatch.detector.http.page.headers import SecurityHeaders
from stallwatch.detector.http.page.routes import page_routes

__all__ = ["SecurityHeaders", "page_routes"]
