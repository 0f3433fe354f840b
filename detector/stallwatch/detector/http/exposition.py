"""Families as text, for Prometheus's format and for OpenMetrics.

prometheus_client writes the same, and a test compares the two. It checks every name and looks at every character of every value,
which for 200 runs takes twice as long as all the rest of a scrape; the names here are those of the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.utils import floatToGoString

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def encode(families: Iterable[Family], accept: str) -> tuple[bytes, str]:
    """One answer to a scrape, in the format that `accept` asks for, and its content type."""
    _encode, content_type = choose_encoder(accept)
    open_metrics = content_type.startswith("application/openmetrics-text")
    lines: list[str] = []
    for family in families:
        _family(lines, family, open_metrics)
    if open_metrics:
        lines.append("# EOF\n")
    return "".join(lines).encode(), content_type


def _family(lines: list[str], family: Family, open_metrics: bool) -> None:
    # OpenMetrics names a counter without the suffix that its samples have.
    name = f"{family.name}_total" if family.type == "counter" and not open_metrics else family.name
    text = family.documentation.translate(_ESCAPES)
    lines.append(f"# HELP {name} {text}\n# TYPE {name} {family.type}\n")
    escaped: dict[str, str] = {}
    for sample in family.samples:
        labels = _labels(sample.labels, escaped)
        value = floatToGoString(sample.value)  # type: ignore[no-untyped-call]
        lines.append(f"{sample.name}{labels} {value}\n")


def _labels(labels: Mapping[str, str], escaped: dict[str, str]) -> str:
    if not labels:
        return ""
    parts = []
    for name in sorted(labels):
        value = labels[name]
        if (text := escaped.get(value)) is None:
            text = escaped[value] = value.translate(_ESCAPES)
        parts.append(f'{name}="{text}"')
    return "{" + ",".join(parts) + "}"
