"""Medians are numpy's own, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stallwatch.detector.stats.robust import median

FLOATS = st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=9)
INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9)


@given(FLOATS.map(np.array) | INTEGERS.map(lambda each: np.array(each, dtype=np.int64)))
def test_it_is_that_of_numpy(values):
    """Integers whose sum does not fit, too."""
    assert median(values) == np.median(values)


@pytest.mark.parametrize("values", [[], [np.nan], [1.0, np.nan], [np.nan, 2.0, 3.0]])
def test_it_is_unknown_where_nothing_or_not_all_is_known(values):
    """Without a warning of numpy's."""
    assert np.isnan(median(np.array(values, dtype=float)))
