"""The analyzers: one Ray actor a run, restored from the store when it restarts."""
