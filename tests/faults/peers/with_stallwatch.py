"""Stallwatch itself, by the fault suite's own runner."""

from __future__ import annotations

from faults.bench import Bench
from faults.peers.heard import Heard, Statement
from faults.scenario import Case

QUOTE = 200


def listen(bench: Bench, case: Case) -> Heard:
    """Run the case as the suite does."""
    outcome = bench.run(case)
    true = set(case.scenario.also)
    said = [
        Statement(
            finding["kind"],
            f"{finding['kind']} ({finding['severity']}): {finding['reason']}"[:QUOTE],
            frozenset({finding["kind"]}),
            tuple(finding["ranks"]) if case.culprits else (),
        )
        for finding in outcome.said
        if finding["kind"] == case.scenario.kind
        or (finding["severity"] != "info" and finding["kind"] not in true)
    ]
    return Heard(said, None, outcome.wall_seconds, note=outcome.verdict.value)
