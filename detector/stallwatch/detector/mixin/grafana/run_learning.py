"""Panels of a run about learning: loss, forecast, gradients, batch and learning rate."""

from __future__ import annotations

from stallwatch.detector.mixin.grafana.fields import Json, fixed, override, thresholds
from stallwatch.detector.mixin.grafana.panels import graph, query, row
from stallwatch.detector.mixin.grafana.promql import Scope

_HIGH, _LOW = "forecast, at worst", "forecast, at best"
_FORECAST = "stallwatch_loss_forecast_relative_improvement"


def learning_panels(run: Scope) -> list[Json]:
    """The row Learning."""
    return [
        row("Learning"),
        _loss(run),
        graph(
            "Improvement to expect",
            "Over the forecast's horizon, relative to the loss now: estimate and ends of its 95 % interval. An interval close to 0 "
            "means that nothing more is to be had at these settings; a wide one, that nobody can say yet.",
            query(run.latest(_FORECAST, "bound"), "{{bound}}"),
            unit="percentunit",
            overrides=[
                override("low", custom__lineStyle={"fill": "dash", "dash": [6, 6]}),
                override("high", custom__lineStyle={"fill": "dash", "dash": [6, 6]}),
            ],
        ),
        graph(
            "Slope of the loss",
            "Per optimizer step; negative while the model learns.",
            query(run.latest("stallwatch_loss_slope_per_step"), "slope"),
            unit="sci",
            custom={"thresholdsStyle": {"mode": "line"}},
            defaults={"thresholds": thresholds((None, "transparent"), (0, "text"))},
        ),
        graph(
            "Gradient norm",
            "L2 norm at sampled steps: of the ranks' own gradients before averaging, and of what the optimizer saw. Close together: "
            "more ranks or a larger batch would not help. Equal: gradients are not averaged, or all ranks see the same samples.",
            query(run.latest("stallwatch_gradient_norm", "stage"), "{{stage}}"),
            unit="none",
            logarithmic=True,
        ),
        graph(
            "Batch and gradient noise scale",
            "Samples behind one optimizer step, and the batch at which gradient noise stops mattering. A batch far above the noise "
            "scale buys little learning; far below, noise dominates.",
            query(run.latest("stallwatch_effective_batch_size"), "effective batch"),
            query(run.latest("stallwatch_gradient_noise_scale"), "noise scale"),
            unit="short",
            logarithmic=True,
        ),
        graph(
            "Batch over critical batch",
            "Far above 1, more ranks do not help learning.",
            query(run.latest("stallwatch_batch_over_critical"), "batch over critical"),
            unit="none",
            custom={"thresholdsStyle": {"mode": "line"}},
            defaults={"min": 0, "thresholds": thresholds((None, "transparent"), (1, "orange"))},
        ),
        graph(
            "Learning rate",
            "Of the first parameter group. A plateau that begins where this falls is no end of learning.",
            query(run.latest("stallwatch_learning_rate"), "learning rate"),
            unit="sci",
        ),
    ]


def _loss(run: Scope) -> Json:
    """The band is the forecast as a loss: what the loss now becomes with the least and the most improvement to expect."""
    train = run.latest("stallwatch_loss", split="train")

    def ahead(bound: str) -> str:
        return f"{train} * (1 - {run.latest(_FORECAST, bound=bound)})"

    hidden_line = {"custom__lineWidth": 0, "color": fixed("blue"), "custom__showPoints": "never"}
    return graph(
        "Loss, and where it is going",
        "Training loss over all ranks, evaluation loss where the run logs one, and the band in which the training loss will lie "
        "after the forecast's horizon with 95 % confidence. A band that hugs the line: the run is done at these settings. "
        "Marks are findings, and states in which it did not learn.",
        query(run.latest("stallwatch_loss", "split"), "{{split}}"),
        query(ahead("low"), _HIGH),
        query(ahead("high"), _LOW),
        unit="none",
        size=(24, 10),
        overrides=[
            override("train", color=fixed("green"), custom__lineWidth=2),
            override("evaluation", color=fixed("purple"), custom__lineWidth=2),
            override(_HIGH, custom__fillBelowTo=_LOW, custom__fillOpacity=20, **hidden_line),
            override(_LOW, **hidden_line),
        ],
    )
