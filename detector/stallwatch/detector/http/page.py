"""The page at `/`: the runs, drawn by the server; it works without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from stallwatch.detector.core.views import RunView
from stallwatch.detector.version import VERSION

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.critical { color: #c62828; font-weight: 600; } .warning { color: #b26a00; font-weight: 600; }
footer { margin-top: 2rem; color: #777; }
@media (prefers-color-scheme: dark) { .critical { color: #ff7b72; } .warning { color: #e3b341; } }
"""


def render_page(views: Sequence[RunView], now: float) -> str:
    """The page as HTML."""
    rows = "".join(_row(view, now) for view in views)
    table = (
        "<table><thead><tr><th>Run</th><th>State</th><th class=number>Step</th><th class=number>Ranks</th>"
        f"<th class=number>Loss</th><th>Findings</th><th>Reported</th></tr></thead><tbody>{rows}</tbody></table>"
        if views
        else "<p>No run has reported yet. Set <code>STALLWATCH_ENDPOINT</code> in the training job.</p>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta http-equiv="refresh" content="5">'
        f"<title>Stallwatch</title><style>{_STYLE}</style></head><body><h1>Runs</h1>{table}"
        f'<footer>Stallwatch {escape(VERSION)} &middot; <a href="/api/v1/runs">API</a> &middot; '
        '<a href="/metrics">metrics</a></footer></body></html>'
    )


def _row(view: RunView, now: float) -> str:
    loss = "" if view.loss.value is None else f"{view.loss.value:.4g}"
    findings = "<br>".join(
        f"<span class={escape(finding.severity)}>{escape(finding.kind)}</span> {escape(finding.reason)}"
        for finding in view.findings
    )
    link = f"/api/v1/runs/{quote(view.run, safe='')}"
    return (
        f'<tr><td><a href="{escape(link)}">{escape(view.run)}</a></td><td>{escape(view.state.replace("_", " "))}</td>'
        f"<td class=number>{max(view.step, 0)}</td><td class=number>{view.world_size}</td>"
        f"<td class=number>{loss}</td><td>{findings}</td><td>{escape(_ago(now - view.updated_at))}</td></tr>"
    )


def _ago(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"
