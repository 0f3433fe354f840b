"""What must not change a verdict: the loss's unit, the size of batches, the number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from stallwatch.detector.analysis import RunAnalysis
from support.loss_curves import flat_from, noisy, power_law
from support.simulation import START, Columns, Job, attach

STEPS = 1600
LOOKS = 40
"""How often the state is read: at the same steps, however these come."""


def judged(scale: float = 1.0, batch_steps: int = 20, ranks: int = 2) -> list[tuple[object, ...]]:
    """State, its onset, and the findings of the loss, read every `LOOKS` steps of a job whose loss goes flat and then rises."""
    curve = noisy(flat_from(power_law(0.3), 300), STEPS, 0.01, 1)
    curve[1200:] *= np.linspace(1, 4, STEPS - 1200)
    # Ranks share the batch unevenly and their parts of the loss differ; the weighted mean is that of the job.
    share = np.arange(1, ranks + 1) / np.arange(1, ranks + 1).sum()
    spread = np.random.default_rng(2).normal(size=(STEPS, ranks))
    spread -= (spread * share).sum(axis=1, keepdims=True)

    def losses(columns: Columns) -> None:
        columns.samples[:] = 840 * share
        columns.loss_sum[:] = scale * curve[:, None] * (1 + 0.1 * spread) * columns.samples

    job = Job(ranks=ranks, steps=STEPS, batch_steps=batch_steps, sample_period=0, faults=(losses,))
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    seen: list[tuple[object, ...]] = []
    for _, rank, batch in job.batches():
        analysis.batch(START + 1, rank, job.incarnation + rank, batch)
        last = int(batch.steps.step[-1])
        if rank == ranks - 1 and (last + 1) % LOOKS == 0:
            analysis.tick(START + 1)
            seen.append((last, analysis.view().state, analysis.view().state_since_step))
    learning = [each for each in analysis.findings() if each.category == "learning"]
    seen += [(each.kind, each.since_step, each.detected_step, each.resolved_step) for each in learning]
    return seen


@pytest.fixture(scope="module")
def reference() -> list[tuple[object, ...]]:
    """The verdicts of the plain job."""
    seen = judged()
    assert {"plateau", "diverging"} <= {str(entry[1]) for entry in seen}
    return seen


@pytest.mark.parametrize("scale", [1e-6, 0.3, 1e6])
def test_the_unit_of_the_loss_does_not_matter(reference: list[tuple[object, ...]], scale: float) -> None:
    """Multiplying the loss by a constant changes no state and no finding."""
    assert judged(scale=scale) == reference


@pytest.mark.parametrize("batch_steps", [1, 8, 40])
def test_the_size_of_batches_does_not_matter(reference: list[tuple[object, ...]], batch_steps: int) -> None:
    """Steps may come one by one or forty at a time."""
    assert judged(batch_steps=batch_steps) == reference


@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_the_number_of_ranks_does_not_matter(reference: list[tuple[object, ...]], ranks: int) -> None:
    """The loss is the mean over samples, on however many ranks they are."""
    assert judged(ranks=ranks) == reference
