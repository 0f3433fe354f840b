"""A password in the store's address is in no message about it."""

from __future__ import annotations

import pytest

from stallwatch.detector.errors import StoreError
from stallwatch.detector.store import Store


@pytest.mark.parametrize(
    "url",
    [
        "postgresql//user:s3cret@host/name",
        "postgres://user:s3cret@host/name",
        "mysql://user:s3cret@host/name",
        "sqlite://user:s3cret@host/name",
        "postgresql+psycopg://user:s3cret@127.0.0.1:1/name",
        "s3cret",
    ],
)
def test_it_is_not_shown(url):
    """Where it cannot be parsed, has no driver, or nothing listens."""
    with pytest.raises(StoreError) as raised:
        Store(url).prepare()
    assert "s3cret" not in str(raised.value)
