"""Whose the watched runs are: no account takes the places of all."""

from __future__ import annotations

import math
from collections.abc import Iterator

from stallwatch.detector.auth.access import EVERYBODY, Principal
from stallwatch.detector.errors import TooManyRunsError

MOST_OF_ALL = 0.75
"""Of all places, for one account: what is left is for others."""


class Places:
    """Which account opened which run; only the event loop's thread touches it."""

    def __init__(self, max_runs: int) -> None:
        self._max_runs = max_runs
        self._owners: dict[str, str] = {}

    def claim(self, run: str, account: Principal) -> None:
        """The run is this account's, unless it is another one's already.

        After a restart runs are nobody's until one of their ranks comes back.
        """
        self._owners[run] = self._owners.get(run) or account.name

    def leave(self, run: str) -> None:
        """The run is not watched any more."""
        self._owners.pop(run, None)

    def runs_of(self, account: Principal) -> Iterator[str]:
        """The runs that it opened."""
        return (run for run, owner in self._owners.items() if owner == account.name)

    def is_full(self, account: Principal) -> bool:
        """Whether the account has more than it may, with one that is to be opened. Without tokens all are one account."""
        return account.name != EVERYBODY.name and sum(1 for _ in self.runs_of(account)) > self._most(account)

    def refusal(self, account: Principal) -> TooManyRunsError:
        """What it is told then."""
        most = self._most(account)
        if account.max_runs is not None and account.max_runs <= most:
            return TooManyRunsError(
                f"{account.name} has as many runs watched as it may ({most}): wait for one to finish, or raise max_runs "
                "of its token"
            )
        return TooManyRunsError(
            f"{account.name} has {most} runs watched, and the others of {self._max_runs} are kept for other accounts: "
            "wait for one to finish, or raise --max-runs"
        )

    def _most(self, account: Principal) -> int:
        return min(account.max_runs or self._max_runs, math.ceil(MOST_OF_ALL * self._max_runs))
