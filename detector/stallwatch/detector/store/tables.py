"""The tables. Large values are opaque blobs: what is in them is the business of `store.codec` and `engine.snapshot`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

SCHEMA_VERSION = 1
"""Another one is refused: what is there has changed its meaning."""
SCHEMA_MINOR = 1
"""Has more columns than the one before, which versions before do not see: they go on with a store that has them."""

metadata = MetaData()

schema = Table(
    "stallwatch_schema",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("minor", Integer, nullable=False, server_default="0"),
)

runs = Table(
    "stallwatch_runs",
    metadata,
    Column("run", String(128), primary_key=True),
    Column("state", String(32), nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("view", LargeBinary, nullable=False),
)

FIRST_FORMAT = 2
"""Of the snapshots that say of none."""

snapshots = Table(
    "stallwatch_snapshots",
    metadata,
    # SQLite counts up only a column whose type is exactly INTEGER.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("run", String(128), nullable=False),
    Column("taken_at", Double, nullable=False),
    Column("data", LargeBinary, nullable=False),
    # Where the recording ended when this was taken; NULL when the run was not recorded.
    Column("recording_bytes", BigInteger, nullable=True),
    # Set when it could not be read back: kept for whoever wants to know why, never used again.
    Column("damaged", Boolean, nullable=False, default=False),
    # Of the data; NULL when a version wrote it that knew of one format only.
    Column("format", Integer, nullable=True),
    Index("stallwatch_snapshots_by_run", "run", "id"),
)

findings = Table(
    "stallwatch_findings",
    metadata,
    Column("id", String(256), primary_key=True),
    Column("run", String(128), nullable=False, index=True),
    Column("kind", String(64), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("resolved_at", Double, nullable=True),
    Column("body", LargeBinary, nullable=False),
)

# One row for each finding that people were, or would have been, told of.
alerts = Table(
    "stallwatch_alerts",
    metadata,
    Column("id", String(256), primary_key=True),
    Column("run", String(128), nullable=False, index=True),
    Column("kind", String(64), nullable=False),
    Column("started_at", Double, nullable=False, index=True),
    # NULL while it fires.
    Column("ended_at", Double, nullable=True, index=True),
    Column("told", Boolean, nullable=False),
    # When a detector last saw it fire: of those that share a store, one may watch what the others do not.
    Column("seen_at", Double, nullable=False, default=0.0),
    Column("finding", LargeBinary, nullable=False),
)

alert_events = Table(
    "stallwatch_alert_events",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("finding_id", String(256), nullable=False, index=True),
    Column("status", String(16), nullable=False),
    Column("at", Double, nullable=False, index=True),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double, nullable=True),
    Column("finding", LargeBinary, nullable=False),
    Column("run_summary", LargeBinary, nullable=False),
    # Webhooks that have not been told: indices with commas between them; empty when all have.
    Column("pending", String(256), nullable=False, index=True),
)

silences = Table(
    "stallwatch_silences",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("run", String(256), nullable=True),
    Column("kind", String(64), nullable=True),
    Column("comment", String(1024), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
)
