"""The file of a SQLite store: still the one that it was, or nothing written to it is safe."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

_IDENTITY = "stallwatch file"


class SqliteFile:
    """Refuses connections to a file that is gone, and leaves those to one that was replaced.

    SQLite would go on writing to a file that was deleted, and make an empty one where there is none: agents would be told
    that something is safe which is not.
    """

    def __init__(self, engine: Engine) -> None:
        self._path = Path(engine.url.database) if engine.url.database else None
        self.may_be_new = False
        """Whether the file may be made: only by who prepares the store."""
        if self._path is not None:
            event.listen(engine, "do_connect", self._before)
            event.listen(engine, "connect", self._after)
            event.listen(engine, "checkout", self._check)

    def _before(self, *_arguments: Any) -> None:
        if not self.may_be_new and self._identity() is None:
            raise sqlite3.OperationalError(
                "the file is gone: put it back, or start the detector again with a new one"
            )

    def _after(self, _connection: Any, record: Any) -> None:
        self.may_be_new = False
        record.info[_IDENTITY] = self._identity()

    def _check(self, _connection: Any, record: Any, _proxy: Any) -> None:
        if record.info.get(_IDENTITY) != self._identity():
            raise DisconnectionError("the file is another one, or gone")

    def _identity(self) -> tuple[int, int] | None:
        assert self._path is not None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
