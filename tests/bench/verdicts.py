"""Scores the learning verdicts: on real curves with hindsight, and on synthetic ones whose truth is known.

    python tests/bench/verdicts.py --curves DIR [--out DIR] [--seeds N] [--steps N] [--skip-synthetic]

Prints markdown tables; with `--out` also writes them, `verdicts.json`, and pictures of the worst misses (with matplotlib).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from verdict_curves import BASELINES, Curve, Score, States, entries, follow, read_curves, score
from verdict_synthetic import Row, epochs, plateaus, power_laws

from stallwatch.detector.core.learning import LossAssessment
from stallwatch.detector.signals.loss_config import LossConfig

RATES = (0.05, 0.075, 0.1)
"""False-alarm rates among which leave-one-family-out may choose."""
Looks = list[tuple[float, LossAssessment]]


def table(rows: list[Row]) -> str:
    """A markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def score_row(name: str, found: Score) -> Row:
    """One line of the table of scores."""
    return {
        "detector": name,
        "precision": round(found.precision, 3),
        "recall": round(found.recall, 3),
        "false alarms": f"{100 * found.false_alarm_share:.1f} %",
        "median delay": "none" if found.median_delay is None else round(found.median_delay, 3),
    }


def leave_one_family_out(curves: list[Curve], by_rate: dict[float, dict[str, States]]) -> Score:
    """Every family is called with the rate that is best on all others."""
    calls: dict[str, States] = {}
    for family in sorted({curve.family for curve in curves}):
        others = [curve for curve in curves if curve.family != family]
        scores = {rate: score(others, found) for rate, found in by_rate.items()}

        def worth(rate: float, scores: dict[float, Score] = scores) -> float:
            found = scores[rate]
            both = found.precision + found.recall
            quality = 2 * found.precision * found.recall / both if both else 0.0
            return quality - (found.false_alarm_share > 0.03)

        chosen = max(by_rate, key=worth)
        calls |= {curve.name: by_rate[chosen][curve.name] for curve in curves if curve.family == family}
    return score(curves, calls)


def calibration(curves: list[Curve], looks: dict[str, Looks], config: LossConfig) -> Row:
    """Coverage of the 95 % forecasts a quarter of the run ahead, and how often confident plateaus stayed flat."""
    inside = total = confident = stayed = 0
    for curve in curves:
        seen = looks[curve.name]
        if not seen:
            continue
        positions = [position for position, _ in seen]
        steps = [look.step for _, look in seen]
        scale = (
            1.0 if curve.whole else len(curve.points) / max(curve.points[-1][0] - curve.points[0][0], 1e-9)
        )
        ahead = 0.25 * (curve.points[-1][0] - curve.points[0][0]) * scale
        for cut in curve.cuts:
            index = int(np.searchsorted(positions, cut.position, side="right")) - 1
            if index < 0:
                continue
            look = seen[index][1]
            if look.state == "plateau" and look.confidence >= 0.9:
                confident, stayed = confident + 1, stayed + cut.flat
            if cut.level_later is None or look.forecast is None:
                continue
            wanted = ahead + max(cut.position * scale - steps[index], 0.0) if curve.whole else ahead
            # The forecast's own horizon differs from a quarter of the run: judge it at the nearest look's horizon by
            # the ratio of log times, in which courses are about straight.
            age = look.steps_observed
            ratio = math.log1p(wanted / age) / math.log1p(look.forecast.horizon_steps / age)
            middle = look.forecast.relative_improvement * ratio
            low = middle - (look.forecast.relative_improvement - look.forecast.low) * max(ratio, 0.3)
            high = middle + (look.forecast.high - look.forecast.relative_improvement) * max(ratio, 0.3)
            size = abs(look.level)
            inside += look.level - high * size <= cut.level_later <= look.level - low * size
            total += 1
    return {
        "forecasts": total,
        "95 % intervals that held": round(inside / max(total, 1), 3),
        "confident plateau cuts": confident,
        "of them stayed flat": round(stayed / max(confident, 1), 3),
        "false alarm rate": config.false_alarm_rate,
    }


def pictures(
    folder: Path, curves: list[Curve], looks: dict[str, Looks], found: Score, calls: dict[str, States]
) -> str:
    """Draw what docs/verdicts.md shows."""
    try:
        from verdict_pictures import reliability, worst_misses
    except ImportError:
        return "no pictures: matplotlib is not installed"
    reliability(folder / "reliability.png", curves, looks)
    worst_misses(folder / "worst_misses.png", curves, found, calls)
    return f"pictures: {folder / 'reliability.png'}, {folder / 'worst_misses.png'}"


def real(folder: Path, out: Path | None) -> tuple[list[str], dict[str, object]]:
    """Everything about the real curves."""
    curves = read_curves(folder)
    config = LossConfig()
    looks_by_rate = {
        rate: {curve.name: follow(curve, replace(config, false_alarm_rate=rate)) for curve in curves}
        for rate in sorted({*RATES, config.false_alarm_rate})
    }
    by_rate = {
        rate: {name: entries(looks) for name, looks in found.items()} for rate, found in looks_by_rate.items()
    }
    calls = by_rate[config.false_alarm_rate]
    ours = score(curves, calls)
    rows = [score_row("stallwatch", ours)]
    rows.append(score_row("stallwatch, leave one family out", leave_one_family_out(curves, by_rate)))
    rows += [
        score_row(name, score(curves, {curve.name: call(curve) for curve in curves}))
        for name, call in BASELINES.items()
    ]
    held = calibration(curves, looks_by_rate[config.false_alarm_rate], config)
    families: list[Row] = []
    for family in sorted({curve.family for curve in curves}):
        members = [curve for curve in curves if curve.family == family]
        families.append({"family": family, "runs": len(members), **score_row(family, score(members, calls))})
    text = [f"## {len(curves)} real curves", table(rows), "### Calibration", table([held])]
    text += ["### By family", table([{k: v for k, v in row.items() if k != "detector"} for row in families])]
    if out is not None:
        text.append(pictures(out, curves, looks_by_rate[config.false_alarm_rate], ours, calls))
    return text, {"scores": rows, "calibration": held, "families": families, "wrong": ours.wrong}


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--curves", type=Path, help="folder of real curves with hindsight")
    parser.add_argument("--out", type=Path, help="folder for tables, JSON and pictures")
    parser.add_argument("--seeds", type=int, default=10, help="runs per synthetic condition")
    parser.add_argument("--steps", type=int, default=100_000, help="length of the endless power laws")
    parser.add_argument("--skip-synthetic", action="store_true")
    arguments = parser.parse_args()
    started = time.perf_counter()
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    text, data = ["# Learning verdicts"], {"settings": asdict(LossConfig())}
    if arguments.curves is not None and (arguments.curves / "manifest.csv").exists():
        lines, found = real(arguments.curves, arguments.out)
        text += lines
        data |= found
    else:
        text.append(f"Real curves are left out: no manifest.csv in {arguments.curves}.")
    if not arguments.skip_synthetic:
        config = LossConfig()
        for name, rows in (
            ("Fifty epochs, flat from the 27th", epochs(config, max(arguments.seeds, 30))),
            ("Curves that stop", plateaus(config, 4000, arguments.seeds)),
            (
                f"Power laws that never stop, {arguments.steps:,} steps",
                power_laws(config, arguments.steps, arguments.seeds),
            ),
        ):
            text += [f"## {name}", table(rows)]
            data[name] = rows
    text.append(f"Took {time.perf_counter() - started:.0f} s.")
    report = "\n\n".join(text) + "\n"
    sys.stdout.write(report)
    if arguments.out is not None:
        (arguments.out / "verdicts.md").write_text(report)
        (arguments.out / "verdicts.json").write_text(json.dumps(data, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
