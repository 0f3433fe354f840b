"""What `stallwatch doctor` says of tokens and certificates: whether they can be used and until when, and nothing secret."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from stallwatch.detector.auth import files
from stallwatch.detector.auth.tls import TlsFiles, not_after
from stallwatch.detector.errors import UsageError
from stallwatch.detector.service.examination_result import Result
from stallwatch.detector.service.settings import EXPOSED, Settings

WARN_DAYS = 14
"""Before something ends to be valid."""


def examine_access(settings: Settings) -> Iterator[Result]:
    """Tokens, then certificates."""
    yield _tokens(settings)
    yield from _certificates(settings)


def _tokens(settings: Settings) -> Result:
    if settings.tokens is None:
        if settings.is_exposed:
            return Result("tokens", "warning", "none", EXPOSED.format(host=settings.host))
        return Result("tokens", "ok", f"none: whoever reaches {settings.host} may do everything")
    try:
        entries = files.read(settings.tokens).entries
    except UsageError as error:
        return Result(
            "tokens", "problem", str(error), "correct the file, or make it with `stallwatch token create`"
        )
    now = datetime.now(timezone.utc)
    says = f"{settings.tokens} holds {len(entries)}: {', '.join(entry.name for entry in entries) or '-'}"
    if settings.tokens.stat().st_mode & 0o002:
        fix = f"everybody on this machine can write to it: chmod 600 {settings.tokens}"
        return Result("tokens", "warning", says, fix)
    ending = [
        entry.name
        for entry in entries
        if entry.expires_at is not None and entry.is_expired((now + timedelta(days=WARN_DAYS)).timestamp())
    ]
    if ending:
        fix = "make others with `stallwatch token create`, and revoke these when nobody uses them any more"
        return Result("tokens", "warning", f"{says}; expired or about to: {', '.join(ending)}", fix)
    return Result("tokens", "ok", says)


def _certificates(settings: Settings) -> Iterator[Result]:
    if settings.tls_paths is None:
        where = "agents and readers connect in clear"
        if settings.tokens is not None and not settings.is_local:
            yield Result(
                "tls",
                "warning",
                f"none: {where}, and tokens can be read on the way",
                "give --tls-cert and --tls-key",
            )
        else:
            yield Result("tls", "ok", f"none: {where}")
        return
    try:
        material = TlsFiles(settings.tls_paths).material
    except UsageError as error:
        yield Result("tls", "problem", str(error), "give a certificate and its key as PEM files")
        return
    yield _certificate("--tls-cert", material.certificate)
    if material.client_ca is not None:
        yield _certificate("--tls-client-ca", material.client_ca)


def _certificate(option: str, content: bytes) -> Result:
    end = not_after(content)
    now = datetime.now(timezone.utc)
    says = f"{option} is valid until {end:%Y-%m-%d %H:%M} UTC"
    if end <= now:
        return Result(
            "tls",
            "problem",
            f"{option} ended to be valid on {end:%Y-%m-%d}",
            "renew it: it is read again when it changes",
        )
    if end - now < timedelta(days=WARN_DAYS):
        return Result("tls", "warning", says, "renew it: it is read again when it changes")
    return Result("tls", "ok", says)
