"""The tokens file: who may do what, with the hash of each token and never the token itself.

A token holds 256 random bits, so one SHA-256 is enough: there is nothing to guess that a slow hash would make dearer.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sys
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from stallwatch.detector.auth.access import EVERY_RUN, Principal, Scope
from stallwatch.detector.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "swt_"
"""By it, scanners for secrets find a token that was left in a repository."""
SECRET_BYTES = 32
MOST_SECRET_CHARACTERS = 512
MOST_FILE_BYTES = 4 * 1024 * 1024
_HASH = "sha256:"

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class TokenEntry(BaseModel):
    """One `[[token]]` of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    """Who holds it: shown in logs and messages, so no secret."""
    hash: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    """`sha256:` and the SHA-256 of the token in hexadecimal digits."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    """Any of `write`, `read`, `administer`."""
    runs: Annotated[tuple[Pattern, ...], Field(min_length=1)] = (EVERY_RUN,)
    """Names of runs, or patterns with `*`."""
    expires: datetime | date | None = None
    """When it ends to be valid, as a TOML date-time; or, as a date, its last day in UTC."""
    max_streams: Annotated[int, Field(ge=1)] | None = None
    """Ranks connected at the same time."""
    max_bytes_per_second: Annotated[int, Field(ge=1024)] | None = None
    """Telemetry received."""
    max_runs: Annotated[int, Field(ge=1)] | None = None
    """Runs that it opened, watched at the same time."""

    @field_validator("expires", mode="before")
    @classmethod
    def _is_date(cls, value: Any) -> Any:
        if not isinstance(value, date):
            raise ValueError("it must be a date without quotes, like 2027-01-31")  # noqa: TRY004  pydantic's
        return value

    @property
    def expires_at(self) -> float | None:
        """From when on it is not valid, in Unix seconds; None for never."""
        if self.expires is None:
            return None
        if isinstance(self.expires, datetime):
            moment = self.expires
            return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
        day = datetime(self.expires.year, self.expires.month, self.expires.day, tzinfo=timezone.utc)
        return (day + timedelta(days=1)).timestamp()

    def is_expired(self, now: float) -> bool:
        """Whether it is not valid any more."""
        return self.expires_at is not None and now >= self.expires_at

    @property
    def principal(self) -> Principal:
        """Whoever presents it."""
        return Principal(
            self.name,
            frozenset(self.scopes),
            self.runs,
            self.max_streams,
            self.max_bytes_per_second,
            self.max_runs,
        )


class Tokens:
    """All entries of a file."""

    def __init__(self, entries: Sequence[TokenEntry]) -> None:
        self.entries = tuple(entries)
        self._digests = [(bytes.fromhex(entry.hash.removeprefix(_HASH)), entry) for entry in entries]

    def find(self, digest: bytes) -> TokenEntry | None:
        """The entry of a token's SHA-256. Every entry is compared, so that the time says nothing about any."""
        found = None
        for known, entry in self._digests:
            if hmac.compare_digest(known, digest):
                found = entry
        return found


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: tuple[TokenEntry, ...] = ()


def new_secret() -> str:
    """A token that nobody has seen."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def digest_of(secret: str) -> bytes:
    """SHA-256 of a token as it was sent."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def hash_of(secret: str) -> str:
    """What the file holds of a token."""
    return _HASH + digest_of(secret).hex()


def entry_of(fields: dict[str, Any]) -> TokenEntry:
    """An entry; `UsageError` says which field is wrong and how."""
    try:
        return TokenEntry.model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"token: {_first(error)}") from None


def parse(content: bytes, name: object) -> Tokens:
    """The tokens of a file; `UsageError` says which field is wrong and how, and shows no value of it."""
    if len(content) > MOST_FILE_BYTES:
        raise UsageError(f"tokens file {name} is longer than {MOST_FILE_BYTES >> 20} MiB")
    try:
        data = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"tokens file {name} is no TOML: {_where(error)}") from None
    try:
        entries = _File.model_validate(data).token
    except ValidationError as error:
        raise UsageError(f"tokens file {name}: {_first(error)}") from None
    for index, entry in enumerate(entries):
        for field in ("name", "hash"):
            if any(getattr(entry, field) == getattr(before, field) for before in entries[:index]):
                raise UsageError(f"tokens file {name}: token[{index}].{field} is that of another token, too")
    return Tokens(entries)


def _where(error: Exception) -> str:
    # What stands there may be a token that was put into the wrong place: the position is enough.
    _, at, position = str(error).rpartition("(at ")
    return f"see {position.rstrip(')')}" if at else type(error).__name__


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    path = ""
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    if first["type"] == "extra_forbidden":
        fields = TokenEntry.model_fields if path.startswith("token") else _File.model_fields
        # The last part is what was written in place of a field.
        return (
            f"{path.rpartition('.')[0] or 'it'} has a field that is none: the fields are {', '.join(fields)}"
        )
    return f"{path}: {first['msg'].removeprefix('Value error, ').lower()}"
