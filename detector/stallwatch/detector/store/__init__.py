"""What outlives the service: snapshots of each run's analysis, and the findings."""

from stallwatch.detector.store.database import Store, StoredRun, StoredSnapshot, sqlite_url

__all__ = ["Store", "StoredRun", "StoredSnapshot", "sqlite_url"]
