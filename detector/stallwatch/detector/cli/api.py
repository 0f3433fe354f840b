"""The service's JSON API, as the commands read it."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
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
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with the token for a detector that asks for one.  [default: STALLWATCH_TOKEN, STALLWATCH_TOKEN_FILE]",
    ),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        envvar="STALLWATCH_TLS_CA",
        metavar="FILE",
        help="Authority of the detector's certificate, as PEM.  [default: those of the system]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class UnreachableError(UsageError):
    """Nothing answers at the server's address."""


class Server:
    """One detector."""

    def __init__(self, url: str, token_file: Path | None = None, tls_ca: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise UsageError(f"--server {url} is not an address: give it like {DEFAULT_SERVER}")
        self.url = url.rstrip("/")
        self._token = _token(token_file)
        self._tls = _tls(tls_ca) if parts.scheme == "https" else None

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
        if self._token:
            # Should the answer lead elsewhere, the token does not go along.
            request.add_unredirected_header("authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=self._tls) as answer:  # noqa: S310  checked above
                data = answer.read()
                return json.loads(data) if data else None
        except urllib.error.HTTPError as error:
            raise UsageError(_said(error) + _hint(error.code, self._token)) from None
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


def _token(file: Path | None) -> str:
    """The token to send, from where an agent would take it; empty for none."""
    token = os.environ.get("STALLWATCH_TOKEN", "").strip() if file is None else ""
    if file is None and not token and (named := os.environ.get("STALLWATCH_TOKEN_FILE")):
        file = Path(named)
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise UsageError(f"--token-file {file} cannot be read: {reason}") from None
    if not (token.isascii() and token.isprintable()):
        where = "STALLWATCH_TOKEN" if file is None else f"--token-file {file}"
        raise UsageError(f"{where} holds no token: a token is one line of letters, digits, - and _")
    return token


def _tls(authority: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except (OSError, ValueError) as error:
        reason = (
            "it holds no PEM certificates"
            if isinstance(error, ssl.SSLError)
            else getattr(error, "strerror", error)
        )
        raise UsageError(f"--tls-ca {authority} cannot be used: {reason}") from None


def _hint(code: int, token: str) -> str:
    return "; give a token with --token-file or STALLWATCH_TOKEN" if code == 401 and not token else ""


def _said(error: urllib.error.HTTPError) -> str:
    try:
        message: str = json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{error.url} answered {error.code} {error.reason}: is it a Stallwatch detector?"
    return message
