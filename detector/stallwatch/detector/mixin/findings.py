"""One alert for every kind of finding."""

from __future__ import annotations

from stallwatch.detector.alerts.naming import Links, alert_name, description, summary
from stallwatch.detector.core.vocabulary import VOCABULARY, Kind
from stallwatch.detector.mixin.recording import ALERTING, metric
from stallwatch.detector.mixin.shape import Alert, Group

PENDING = {"critical": "1m", "warning": "5m", "info": "15m"}
"""A finding has been weighed before it fires: what is left to wait out is one that goes by itself."""
PENDING_OF_KIND = {"loss_spike": "0s", "non_finite": "0s", "restart_regression": "0s"}
"""Events rather than conditions: over soon, and still to be told."""
KEEP = "5m"
"""A detector that is restarted says nothing for some seconds: that must not resolve anything."""
KEEP_OF_CATEGORY = {"progress": "10m"}
"""These come and go with what else the machines do."""
_RUN = "{{ $labels.run }}"
_QUOTED_RUN = "{{ $labels.run | urlquery }}"


def findings_group(links: Links, pending: str | None, keep: str | None) -> Group:
    """The alerts, with other durations where they are given."""
    return Group("stallwatch.findings", [_alert(kind, links, pending, keep) for kind in VOCABULARY.values()])


def pending_of(kind: Kind) -> str:
    """How long a finding of this kind fires before its alert does."""
    return PENDING_OF_KIND.get(kind.name, PENDING[kind.severity.value])


def keep_of(kind: Kind) -> str:
    """How long the alert outlives the finding."""
    return KEEP_OF_CATEGORY.get(kind.category, KEEP)


def _alert(kind: Kind, links: Links, pending: str | None, keep: str | None) -> Alert:
    return Alert(
        alert=alert_name(kind.name),
        expr=f'{ALERTING}{{kind="{kind.name}"}} == 1',
        pending=pending or pending_of(kind),
        keep=keep or keep_of(kind),
        # A finding may weigh less than its kind usually does, and its series says so.
        severity="{{ $labels.severity }}",
        summary=summary(kind.name),
        description=description(_RUN, _reason(kind)),
        runbook_url=links.runbook(kind.name),
        dashboard_url=links.quoted_dashboard(_QUOTED_RUN),
    )


def _reason(kind: Kind) -> str:
    """A template that looks the sentence up, so that no value of it is in the alert's labels."""
    info = metric("stallwatch_finding_info")
    selector = f'printf "{info}{{run=%q,kind=%q,severity=%q}}" $labels.run $labels.kind $labels.severity'
    return f'{{{{ with {selector} | query }}}}{{{{ . | first | label "reason" }}}}{{{{ else }}}}{kind.says}{{{{ end }}}}'
