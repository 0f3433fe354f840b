"""Addresses of pages. A run's name may hold `/` and `:`, and a finding's id `#`: each is quoted as one segment."""

from __future__ import annotations

from urllib.parse import quote

from stallwatch.detector.http.query import Target, split_path

_BELOW = frozenset({"findings", "ranks"})


def _segment(text: object) -> str:
    return quote(str(text), safe="")


def run_address(run: str) -> str:
    """A run's page."""
    return f"/runs/{_segment(run)}"


def finding_address(run: str, identity: str) -> str:
    """A finding's page."""
    return f"{run_address(run)}/findings/{_segment(identity)}"


def rank_address(run: str, rank: int) -> str:
    """A rank's page."""
    return f"{run_address(run)}/ranks/{rank}"


def picture_address(run: str, updated_at: float) -> str:
    """The small loss curve of a run; another address every so many seconds, so that it is drawn anew no more often."""
    return f"{run_address(run)}/loss.svg?at={int(updated_at // 15)}"


def runbook_address(kind: str) -> str:
    """The page that explains a kind."""
    return f"/runbooks/{_segment(kind)}"


def api_address(run: str) -> str:
    """The run in the API."""
    return f"/api/v1/runs/{_segment(run)}"


def parse(path: str) -> Target:
    """What a still quoted path below /runs names; slashes of a run's name may be plain where that leaves no doubt."""
    return split_path(path, named=_BELOW, parts=frozenset({"loss.svg"}))
