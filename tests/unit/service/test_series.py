"""How many series a run costs Prometheus, and that sentences do not add to them without end."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder

from stallwatch.detector.alerts.sentences import FIRST_HOLD_SECONDS, SteadySentences
from stallwatch.detector.http.collector import Exposed, StallwatchCollector
from stallwatch.detector.http.exposition import encode
from support.shown_runs import finding, full_run

MOST_SERIES = 60
RUN = "team/run:1"


def series(exposed: Exposed) -> list[str]:
    """The lines of one scrape that are samples."""
    registry = CollectorRegistry()
    registry.register(StallwatchCollector(lambda: exposed))
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_a_run_with_everything_is_at_most_sixty_series():
    """Every number known, two kinds of findings firing, one of them silenced, steps lost at an agent."""
    result = full_run(RUN, ("straggler", "plateau"))
    silenced = frozenset({result.view.findings[0].id})
    with_run = [line for line in series(Exposed([result], (), {}, silenced)) if f'run="{RUN}"' in line]
    assert 50 < len(with_run) <= MOST_SERIES
    assert len({line.rpartition(" ")[0] for line in with_run}) == len(with_run)


def test_a_further_kind_of_finding_is_four_series_while_it_fires():
    """What it is, its sentence, how often, and what it has cost."""
    kinds = ("straggler", "plateau", "hang")
    two, three = (series(Exposed([full_run(RUN, kinds[:count])], ())) for count in (2, 3))
    assert len(three) - len(two) == 4


def test_a_run_that_is_not_shown_leaves_no_series():
    """Nothing is remembered from the scrape before."""
    assert [line for line in series(Exposed([], ())) if "run=" in line] == []


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "text/plain;version=0.0.4",
        "text/plain;version=1.0.0;escaping=underscores",
        "application/openmetrics-text;version=1.0.0",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
    ],
)
def test_a_scrape_is_what_the_client_library_would_write(accept):
    """Byte for byte, with values that have to be escaped, and numbers of every size."""
    result = full_run(RUN, ("straggler", "plateau"))
    nasty = {result.view.findings[0].id: 'A "quote", a \\ and a\nline; \u00e4.'}
    info = {"model": "", "optimizer": 'a"b\\'}
    view = replace(
        result.view, learning_rate=1e-12, steps_received=10**12, gradient_norm_local=math.inf, info=info
    )
    collector = StallwatchCollector(lambda: Exposed([replace(result, view=view)], (), nasty))
    registry = CollectorRegistry()
    registry.register(collector)
    encoder, content_type = choose_encoder(accept)
    assert encode(collector.collect(), accept) == (encoder(registry), content_type)


def test_a_sentence_that_changes_at_every_look_is_a_few_series_a_day():
    """It is held for 5, 10, 20 ... minutes: their number grows with the logarithm of the time."""
    sentences, shown = SteadySentences(), set()
    one = finding(RUN, "straggler")
    day = 86_400
    for second in range(0, day, 15):
        shown |= set(
            sentences.of([replace(one, reason=f"The others wait {second} ms.")], float(second)).values()
        )
    assert 5 < len(shown) <= math.log2(day / FIRST_HOLD_SECONDS) + 2


def test_another_severity_brings_the_sentence_of_the_moment():
    """The alert is another one then, and a finding that is gone and comes back begins anew."""
    sentences = SteadySentences()
    one = finding(RUN, "straggler")
    assert sentences.of([one], 0.0) == {one.id: one.reason}
    worse = replace(one, severity="critical", reason="Worse.")
    assert sentences.of([replace(one, reason="Moved.")], 1.0) == {one.id: one.reason}
    assert sentences.of([worse], 2.0) == {one.id: "Worse."}
    assert sentences.of([], 3.0) == {}
    assert sentences.of([replace(one, reason="Moved.")], 4.0) == {one.id: "Moved."}
