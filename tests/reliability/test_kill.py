"""Short variants of `kill.py` and `kill_service.py`, which see for what they do."""

from __future__ import annotations

import pytest

from reliability.driver import kill_until
from reliability.kill_service import kill_all


@pytest.mark.suite
@pytest.mark.timeout(900)
def test_two_hundred_kills_leave_the_state_of_an_undisturbed_twin(tmp_path):
    """As `make bench-kill` does."""
    tally = kill_until(tmp_path, 200, int.from_bytes(tmp_path.name.encode()) % (1 << 32), batches=12)
    assert sum(tally.kills.values()) == 200


@pytest.mark.timeout(170)
def test_kills_at_random_moments_leave_the_state_of_an_undisturbed_twin(tmp_path):
    """Of ingest, snapshot, restore and migration; the seed is drawn, and named when it fails."""
    seed = int.from_bytes(tmp_path.name.encode()) % (1 << 32)
    hit: set[str] = set()
    # At which moments is chance: once more where one of them was not among 25.
    for more in range(4):
        folder = tmp_path / str(more)
        folder.mkdir()
        tally = kill_until(folder, 25, seed + more, batches=12)
        assert sum(tally.kills.values()) == 25
        hit |= set(tally.kills)
        if hit >= {"ingest", "snapshot", "restore"}:
            break
    assert hit >= {"ingest", "snapshot", "restore"}


@pytest.mark.timeout(170)
def test_kills_of_the_whole_detector_lose_nothing(tmp_path):
    """Three ranks stream on; every step is counted once."""
    done, total = kill_all(tmp_path, 2, 3)
    assert done["service"] + done["analyzer"] == 2
    assert total
