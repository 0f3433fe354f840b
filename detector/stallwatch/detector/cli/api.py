"""The service's JSON API, as the commands read it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import typer

from stallwatch.detector.errors import UsageError

TIMEOUT_SECONDS = 10.0
DEFAULT_SERVER = "http://127.0.0.1:9847"
_WORTH_EXIT_CODE = frozenset({"warning", "critical"})

ServerOption = Annotated[
    str,
    typer.Option(
        "--server", envvar="STALLWATCH_SERVER", metavar="URL", help="Where the detector listens for HTTP."
    ),
]
ExternalUrlOption = Annotated[
    str,
    typer.Option(
        "--external-url",
        envvar="STALLWATCH_EXTERNAL_URL",
        metavar="URL",
        help="Where people reach the detector, for the links.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class UnreachableError(UsageError):
    """Nothing answers at the server's address."""


class Server:
    """One detector."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise UsageError(f"--server {url} is not an address: give it like {DEFAULT_SERVER}")
        self.url = url.rstrip("/")

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the latest first."""
        runs: list[dict[str, Any]] = self._get("/api/v1/runs")["runs"]
        return runs

    def run(self, run: str) -> dict[str, Any]:
        """One run; `UsageError` when there is none of that name."""
        answer: dict[str, Any] = self._get(f"/api/v1/runs/{quote(run, safe='')}")
        return answer

    def findings(self, run: str) -> list[dict[str, Any]]:
        """All findings of a run."""
        path = f"/api/v1/runs/{quote(run, safe='')}/findings?status=all"
        findings: list[dict[str, Any]] = self._get(path)["findings"]
        return findings

    def gaps(self, run: str) -> list[dict[str, Any]]:
        """Where data of a run is missing."""
        gaps: list[dict[str, Any]] = self._get(f"/api/v1/runs/{quote(run, safe='')}/gaps")["gaps"]
        return gaps

    def silences(self) -> list[dict[str, Any]]:
        """The silences that hold, the latest first."""
        silences: list[dict[str, Any]] = self._get("/api/v1/silences")["silences"]
        return silences

    def silence(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Begin a silence."""
        answer: dict[str, Any] = self._ask("POST", "/api/v1/silences", fields)
        return answer

    def unsilence(self, identity: str) -> None:
        """End a silence; `UsageError` when there is none of this id."""
        self._ask("DELETE", f"/api/v1/silences/{quote(identity, safe='')}")

    def _get(self, path: str) -> Any:
        return self._ask("GET", path)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(self.url + path, method=method)  # noqa: S310  checked above
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  checked above
                data = answer.read()
                return json.loads(data) if data else None
        except urllib.error.HTTPError as error:
            raise UsageError(_said(error)) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise UnreachableError(
                f"no detector answers at {self.url} ({reason}): start one with `stallwatch serve`, "
                "or say with --server or STALLWATCH_SERVER where it is"
            ) from None


def is_worrying(findings: list[dict[str, Any]]) -> bool:
    """Whether a firing finding is of severity warning or above."""
    return any(
        finding["status"] == "firing" and finding["severity"] in _WORTH_EXIT_CODE for finding in findings
    )


def _said(error: urllib.error.HTTPError) -> str:
    try:
        message: str = json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{error.url} answered {error.code} {error.reason}: is it a Stallwatch detector?"
    return message
