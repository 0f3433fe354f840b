"""Short variants of `kill.py` and `kill_service.py`, which see for what they do."""

from __future__ import annotations

import pytest

from reliability.driver import kill_until
from reliability.kill_service import kill_all


@pytest.mark.timeout(170)
def test_kills_at_random_moments_leave_the_state_of_an_undisturbed_twin(tmp_path):
    """Of ingest, snapshot, restore and migration; the seed is drawn, and named when it fails."""
    seed = int.from_bytes(tmp_path.name.encode()) % (1 << 32)
    tally = kill_until(tmp_path, 25, seed, batches=12)
    assert sum(tally.kills.values()) == 25
    # At which moments is chance, in so few; the 200 of `make bench-kill` count them.
    assert len(tally.kills) >= 3


@pytest.mark.timeout(170)
def test_kills_of_the_whole_detector_lose_nothing(tmp_path):
    """Three ranks stream on; every step is counted once."""
    done, total = kill_all(tmp_path, 2, 3)
    assert done["service"] + done["analyzer"] == 2
    assert total
