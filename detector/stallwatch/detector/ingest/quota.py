"""Fair shares of the gateway: who wants more of it than it has to give, waits, and others do not.

All runs share one event loop. What each takes of it is measured (`metered`), and a run that takes more than the share which is
left for such runs waits before its next message is looked at: HTTP/2 then holds its agents. Runs that want little never wait.
"""

from __future__ import annotations

import asyncio
import math
import time
import types
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar
from weakref import WeakValueDictionary

LIGHT_SHARE = 0.05
"""Of the event loop's time: a run that takes no more never waits."""
OWNER_SHARE = 0.3
"""For all runs of one account, or one run of nobody's, while there are others."""
OWNER_SHARE_OF_CORES = 0.1
"""The same where analyzers run on the gateway's cores: what is let in costs about as much again there, and others wait for that."""
ALL_SHARE = 0.6
"""For all who want more than the light share, less what the light ones take: shared alike, first by accounts, then by runs."""
LEAST_SHARE = 0.01
"""Nobody gets less, however many want more."""
RATE_SECONDS = 0.5
"""How far back it counts what a run took."""
REVIEW_SECONDS = 0.01
"""How often it is looked who wants much."""
BURST_SECONDS = 0.01
"""Of the event loop, that a run may take at once."""
MOST_DEBT_SECONDS = 0.5
"""What was taken beyond this is forgiven."""
ACTIVE_SECONDS = 5.0
"""For so long after a message a run counts as one that others have to leave room for."""
HELD_SECONDS = 1.0
"""For so long after it had to wait a run counts as one that wants more than it may have."""
SLICE_SECONDS = 0.001
"""Work on one message that takes longer makes room for others in between."""
SHORTEST_NAP_SECONDS = 0.0005
LONGEST_NAP_SECONDS = 0.1
"""Shares change: nobody sleeps longer without a look at what it may have now."""
READERS = "/readers"
NEWCOMERS = "/newcomers"
"""The accounts of those who read over HTTP, and of streams of which it is not known whose they are: no token has such names."""
MOST_HOSTS = 1024
"""Hosts that are told apart among newcomers."""
READERS_BURST_SECONDS = 0.1
"""The same for readers of one sort: a page is some requests at once."""
NO_LIMIT = 1e15
BURST_OF_BYTES = 2.0
"""Seconds of its rate that a run may send at once."""

Result = TypeVar("Result")
Clock = Callable[[], float]


class Bucket:
    """What may be taken: it fills at a rate up to a burst, and may be overdrawn."""

    def __init__(self, burst: float, now: float) -> None:
        self._burst = self._left = burst
        self._at = now

    def take(self, amount: float) -> None:
        """Take, into debt if need be."""
        self._left -= amount

    def wait(self, rate: float, now: float, most_debt: float) -> float:
        """Seconds until something is left, at this rate from the last look on."""
        self._left = min(self._burst, max(self._left, -most_debt) + rate * (now - self._at))
        self._at = now
        return max(0.0, -self._left / rate)


class Meter:
    """What one run takes of the gateway, or readers of one sort."""

    def __init__(
        self,
        quotas: Quotas,
        account: Account,
        name: str,
        bytes_per_second: float,
        burst_seconds: float,
        throttled: dict[str, float],
    ) -> None:
        self.account = account
        self.name = name
        self._quotas = quotas
        self._throttled = throttled
        self._seconds = Bucket(burst_seconds, quotas.now())
        self._bytes_per_second = bytes_per_second
        self._bytes = Bucket(BURST_OF_BYTES * bytes_per_second, quotas.now())
        self._order = asyncio.Lock()
        self._began = 0.0
        self._rate = 0.0
        self._rated_at = quotas.now()
        self.seconds = 0.0
        """Of the event loop's time, so far."""

    async def turn(self, size: int = 0) -> float:
        """Wait until a message of so many bytes may be worked on; return for how many seconds that was.

        Streams of a run come in the order in which they asked.
        """
        started = self._quotas.now()
        self._quotas.saw(self)
        self._bytes.take(size)
        self.account.bytes.take(size)
        if not self._order.locked() and not self._due()[0]:
            return 0.0
        reason = "share"
        async with self._order:
            while (due := self._due())[0] > 0:
                reason = due[1]
                self._quotas.held(self)
                await asyncio.sleep(min(max(due[0], SHORTEST_NAP_SECONDS), LONGEST_NAP_SECONDS))
        waited = self._quotas.now() - started
        self._throttled[reason] += waited
        return waited

    async def breathe(self) -> None:
        """In the middle of a message: let others go first when this has taken long."""
        if self._quotas.busy() - self._began > SLICE_SECONDS:
            # What was taken is charged when the step ends.
            await asyncio.sleep(0)
            await self.turn()

    def begin(self) -> float:
        """A step of this run's work starts; return when."""
        self._began = self._quotas.busy()
        return self._began

    def charge(self, seconds: float) -> None:
        """The event loop was busy with this run for so long."""
        self.seconds += seconds
        self._seconds.take(seconds)
        now = self._quotas.now()
        self._rate = self.rate(now) + seconds / RATE_SECONDS
        self._rated_at = now

    def rate(self, now: float) -> float:
        """The share of the event loop's time that it took lately."""
        return self._rate * math.exp((self._rated_at - now) / RATE_SECONDS)

    @property
    def owner(self) -> str:
        """Who has to share with whom: an account, or a run that is nobody's."""
        return self.account.name or f"run {self.name}"

    def end(self, began: float) -> None:
        """The step that began then is over."""
        self.charge(self._quotas.busy() - began)

    def _due(self) -> tuple[float, str]:
        now = self._quotas.now()
        of_bytes = self._bytes.wait(self._bytes_per_second, now, BURST_OF_BYTES * self._bytes_per_second)
        if (limit := self.account.bytes_per_second) is not None:
            of_bytes = max(of_bytes, self.account.bytes.wait(limit, now, BURST_OF_BYTES * limit))
        of_time = self._seconds.wait(self._quotas.share(self), now, MOST_DEBT_SECONDS)
        return max((of_time, "share"), (of_bytes, "bytes"))


class Account:
    """Who runs belong to: accounts share what is for those who want too much, then the runs of each account its part."""

    def __init__(self, name: str, bytes_per_second: float | None, now: float) -> None:
        self.name = name
        self.bytes_per_second = bytes_per_second
        self.bytes = Bucket(BURST_OF_BYTES * (bytes_per_second or 0.0), now)


class Quotas:
    """The meters of all runs and readers of a gateway; seconds that they waited are added to what is given."""

    def __init__(
        self,
        throttled: dict[str, float],
        readers_throttled: dict[str, float],
        *,
        run_bytes_per_second: float,
        owner_share: float = OWNER_SHARE,
        clock: Clock = time.perf_counter,
        busy: Clock = time.thread_time,
    ) -> None:
        self.now = clock
        self.busy = busy
        """CPU time: a run is not charged with what other threads and processes take in the middle of its work."""
        self._throttled = throttled
        self._readers_throttled = readers_throttled
        self._run_bytes_per_second = run_bytes_per_second
        self._owner_share = owner_share
        self._meters: WeakValueDictionary[tuple[str, str], Meter] = WeakValueDictionary()
        self._accounts: WeakValueDictionary[str, Account] = WeakValueDictionary()
        self._newcomers: dict[Meter, None] = {}
        self._active: dict[Meter, float] = {}
        self._held: dict[Meter, float] = {}
        self._heavy: set[Meter] = set()
        self._owners: Counter[str] = Counter()
        self._light = 0.0
        self._reviewed_at = -math.inf

    def of(
        self,
        account: str,
        run: str,
        *,
        bytes_per_second: float | None = None,
        account_bytes_per_second: float | None = None,
    ) -> Meter:
        """The meter of a run; the limits of its account hold from now on."""
        owner = self._accounts.get(account)
        if owner is None or owner.bytes_per_second != account_bytes_per_second:
            owner = self._accounts[account] = Account(account, account_bytes_per_second, self.now())
        meter = self._meters.get((account, run))
        if meter is None:
            rate = bytes_per_second or self._run_bytes_per_second
            meter = Meter(self, owner, run, rate, BURST_SECONDS, self._throttled)
            self._meters[account, run] = meter
        meter.account = owner
        return meter

    def newcomers(self, host: str) -> Meter:
        """A meter for streams that have not said yet of which run they are: to the others they are all one account."""
        meter = self.of(NEWCOMERS, host)
        self._newcomers[meter] = None
        if len(self._newcomers) > MOST_HOSTS:
            del self._newcomers[next(iter(self._newcomers))]
        return meter

    def readers(self, sort: str) -> Meter:
        """A meter for requests over HTTP of one sort: to the others they are all one account."""
        owner = self._accounts.get(READERS)
        if owner is None:
            owner = self._accounts[READERS] = Account(READERS, None, self.now())
        return Meter(self, owner, sort, NO_LIMIT, READERS_BURST_SECONDS, self._readers_throttled)

    def saw(self, meter: Meter) -> None:
        """The run has something to do."""
        self._active[meter] = self.now()

    def held(self, meter: Meter) -> None:
        """The run has to wait."""
        self._held[meter] = self.now()

    def share(self, meter: Meter) -> float:
        """The share of the event loop's time that a run may have now; above 1 when nobody else wants any."""
        now = self.now()
        if now - self._reviewed_at >= REVIEW_SECONDS:
            self._review(now)
        if not self._active.keys() - {meter}:
            return 2.0
        is_heavy = meter in self._heavy
        owners = len(self._owners) + (meter.owner not in self._owners)
        runs = self._owners[meter.owner] + (not is_heavy)
        # What is read costs analyzers little: the work is here.
        most = OWNER_SHARE if meter.account.name == READERS else self._owner_share
        of_owner = min(most, max(0.0, ALL_SHARE - self._light) / owners)
        return max(LEAST_SHARE if is_heavy else LIGHT_SHARE, of_owner / runs)

    def _review(self, now: float) -> None:
        """See who wants much, and what the others take."""
        self._reviewed_at = now
        self._active = {one: at for one, at in self._active.items() if now - at < ACTIVE_SECONDS}
        self._held = {one: at for one, at in self._held.items() if now - at < HELD_SECONDS}
        rates = {one: one.rate(now) for one in self._active}
        self._heavy = {one for one, rate in rates.items() if rate > LIGHT_SHARE} | self._held.keys()
        self._owners = Counter(one.owner for one in self._heavy)
        self._light = sum(rate for one, rate in rates.items() if one not in self._heavy)


def owner_share(cores: int) -> float:
    """What one owner may have of the event loop where analyzers run on the same so many cores."""
    return min(OWNER_SHARE, OWNER_SHARE_OF_CORES * cores)


async def metered(meter: Meter, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work of a run, and charge the run with the time that the event loop was busy with it."""
    return await _metered(meter, work)


@types.coroutine
def _metered(meter: Meter, work: Coroutine[Any, Any, Result]) -> Generator[Any, Any, Result]:
    sent: Any = None
    raised: BaseException | None = None
    while True:
        began = meter.begin()
        try:
            awaited = work.send(sent) if raised is None else work.throw(raised)
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            meter.end(began)
        sent = raised = None
        try:
            sent = yield awaited
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:
            raised = error
