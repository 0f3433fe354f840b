"""Who is asking: from what a request carries to what it may do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stallwatch.detector.auth import files
from stallwatch.detector.auth.access import EVERYBODY, READERS, Principal
from stallwatch.detector.auth.tokens import MOST_SECRET_CHARACTERS, Tokens, digest_of, parse
from stallwatch.detector.errors import UnauthenticatedError, UsageError

NO_TOKEN = "no token was sent: send the header `authorization: Bearer TOKEN`"  # noqa: S105
NOT_BEARER = "authorization must be `Bearer TOKEN`"
UNKNOWN = "the token is not known here: it was mistyped, revoked, or made for another detector"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who was let in, and by what; never the token itself."""

    principal: Principal
    digest: bytes = b""
    """SHA-256 of the token; empty where none is asked for."""


class Gate:
    """The tokens that hold now. Without a file everybody may do everything."""

    def __init__(
        self, path: Path | None = None, *, open_read: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._clock = clock
        self._content = b"" if path is None else files.content_of(path)
        self._tokens = Tokens(()) if path is None else parse(self._content, path)
        self.is_open = path is None
        """Whether nobody is asked for a token."""
        self.reading_is_open = open_read or path is None
        """Whether reading needs none."""
        self.problem: str | None = None
        """Why the file as it is now cannot be used; the one before holds until it can."""

    @property
    def readers(self) -> Principal:
        """Whoever reads without a token, where that is allowed."""
        return EVERYBODY if self.is_open else READERS

    def authenticate(self, authorization: str | None) -> Session:
        """Who sent this header; `UnauthenticatedError` says why not, and never what was sent."""
        if self.is_open:
            return Session(EVERYBODY)
        if not authorization:
            raise UnauthenticatedError(NO_TOKEN)
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret or len(secret) > MOST_SECRET_CHARACTERS:
            raise UnauthenticatedError(NOT_BEARER)
        digest = digest_of(secret)
        return Session(self._principal(digest), digest)

    def renew(self, session: Session) -> Principal:
        """What somebody who was let in before may do now; `UnauthenticatedError` when nothing any more."""
        return EVERYBODY if self.is_open else self._principal(session.digest)

    def refresh(self) -> bool:
        """Read the file again, and say whether other tokens hold now. A file that is not valid changes nothing."""
        if self._path is None:
            return False
        try:
            content = files.content_of(self._path)
            if content == self._content:
                self._say(None)
                return False
            tokens = parse(content, self._path)
        except UsageError as error:
            self._say(str(error))
            return False
        self._content, self._tokens = content, tokens
        self._say(None)
        log.info("tokens file %s was read again: %d tokens", self._path, len(tokens.entries))
        return True

    def _principal(self, digest: bytes) -> Principal:
        entry = self._tokens.find(digest)
        if entry is None:
            raise UnauthenticatedError(UNKNOWN)
        if entry.is_expired(self._clock()):
            raise UnauthenticatedError(
                f"token {entry.name} has expired: make another one with `stallwatch token create`"
            )
        return entry.principal

    def _say(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            log.error("%s; the tokens that were read before still hold", problem)
        self.problem = problem
