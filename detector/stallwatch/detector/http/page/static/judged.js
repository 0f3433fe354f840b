// What was judged, drawn over the loss: missing data, states, onsets of findings, events, trend and forecast.

import { style, words } from "./format.js";

const FORECAST_SHARE = 0.3; // of what is shown: a longer band would say more of the future than of the run
const MARKS = 8;
const STANDING = new Set(["hung", "lost", "finished"]);

// The part of the forecast that is drawn: level now, and where it may be at `end`.
export function forecastOf(run, first) {
  const loss = run.loss, forecast = loss.forecast;
  if (!forecast || loss.value == null) return null;
  const steps = Math.min(forecast.horizon_steps, Math.max(FORECAST_SHARE * (run.step - first), 1));
  const share = steps / forecast.horizon_steps;
  const at = (gain) => loss.value * (1 - share * gain);
  return {
    from: run.step, to: run.step + steps, level: loss.value,
    expected: at(forecast.relative_improvement), best: at(forecast.high), worst: at(forecast.low),
  };
}

// Over the latest stretch in which the loss was in one state; a run that stands still or is over has one from before.
function trendOf({ run, states, first }) {
  const loss = run.loss, since = states.filter((span) => !STANDING.has(span.state)).pop()?.from_step ?? 0;
  if (loss.value == null || loss.slope_per_step == null) return null;
  const from = Math.max(since, first, run.step - 0.4 * (run.step - first));
  return { from, start: loss.value - loss.slope_per_step * (run.step - from), to: run.step, end: loss.value };
}

function line(u, context, points) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo(u.valToPos(x, "x", true), u.valToPos(y, "y", true));
}

function drawStates(u, context, judged, ratio) {
  const { left, top, width, height } = u.bbox;
  const tall = 6 * ratio;
  judged.states.forEach((span, index) => {
    const next = judged.states[index + 1];
    const end = next ? next.from_step : judged.run.step;
    const from = Math.max(u.valToPos(span.from_step, "x", true), left);
    const to = Math.min(u.valToPos(end, "x", true), left + width);
    if (to <= from) return;
    context.fillStyle = style(`--state-${span.state}`) || style("--muted");
    context.fillRect(from, top + height - tall, to - from, tall);
  });
}

function drawForecast(u, context, judged, ratio) {
  const ahead = judged.forecast;
  if (ahead) {
    line(u, context, [[ahead.from, ahead.level], [ahead.to, ahead.best], [ahead.to, ahead.worst]]);
    context.closePath();
    context.fillStyle = style("--forecast-band");
    context.fill();
    context.setLineDash([3 * ratio, 3 * ratio]);
    context.strokeStyle = style("--forecast");
    line(u, context, [[ahead.from, ahead.level], [ahead.to, ahead.expected]]);
    context.stroke();
  }
  const trend = trendOf(judged);
  if (trend) {
    context.setLineDash([]);
    context.strokeStyle = style("--trend");
    context.lineWidth = 2 * ratio;
    line(u, context, [[trend.from, trend.start], [trend.to, trend.end]]);
    context.stroke();
  }
}

function drawMarks(u, context, judged, ratio) {
  const { left, top, width, height } = u.bbox;
  const inside = (step) => step >= u.scales.x.min && step <= u.scales.x.max;
  context.font = `${11 * ratio}px system-ui, sans-serif`;
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  context.lineWidth = ratio;
  for (const event of judged.events.filter((each) => inside(each.step))) {
    const x = u.valToPos(event.step, "x", true), y = top + height - 12 * ratio, half = 4 * ratio;
    context.fillStyle = style("--muted");
    context.beginPath();
    for (const [dx, dy] of [[0, -half], [half, 0], [0, half], [-half, 0]]) context.lineTo(x + dx, y + dy);
    context.fill();
  }
  const marks = judged.findings.filter((each) => inside(each.since_step))
    .sort((a, b) => (a.status === "firing") - (b.status === "firing") || a.detected_step - b.detected_step)
    .slice(-MARKS).sort((a, b) => a.since_step - b.since_step);
  const colour = (finding) => style(finding.status === "firing" ? `--${finding.severity}` : "--muted");
  for (const finding of marks) {
    const x = u.valToPos(finding.since_step, "x", true);
    context.strokeStyle = colour(finding);
    context.setLineDash(finding.status === "firing" ? [5 * ratio, 3 * ratio] : [2 * ratio, 4 * ratio]);
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x, top + height);
    context.stroke();
  }
  const ends = []; // of the last label on each line of labels
  for (const finding of marks) {
    const text = words(finding.kind), wide = context.measureText(text).width, gap = 4 * ratio;
    const x = u.valToPos(finding.since_step, "x", true);
    const at = x + gap + wide <= left + width ? x + gap : x - gap - wide;
    const free = ends.findIndex((end) => at > end + gap), row = free < 0 ? ends.length : free;
    ends[row] = at + wide;
    const y = top + (12 + 15 * row) * ratio;
    context.save();
    context.fillStyle = style("--surface");
    context.globalAlpha = 0.85;
    context.fillRect(at - 2 * ratio, y - 10 * ratio, wide + 4 * ratio, 13 * ratio);
    context.restore();
    context.fillStyle = colour(finding);
    context.fillText(text, at, y);
  }
}

// Steps of which data is missing are hatched.
function drawGaps(u, context, judged, ratio) {
  const { left, top, width, height } = u.bbox, step = 8 * ratio;
  context.strokeStyle = style("--muted");
  context.globalAlpha = 0.35;
  for (const gap of judged.gaps) {
    const from = Math.max(u.valToPos(gap.from_step, "x", true), left);
    const to = Math.min(Math.max(u.valToPos(gap.to_step, "x", true), from + 2 * ratio), left + width);
    if (to <= from) continue;
    context.save();
    context.beginPath();
    context.rect(from, top, to - from, height);
    context.clip();
    context.beginPath();
    for (let x = from - height; x < to; x += step) {
      context.moveTo(x, top + height);
      context.lineTo(x + height, top);
    }
    context.stroke();
    context.restore();
  }
  context.globalAlpha = 1;
}

export function draw(u, judged) {
  const context = u.ctx, ratio = devicePixelRatio;
  context.save();
  context.beginPath();
  context.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  context.clip();
  context.lineWidth = ratio;
  drawGaps(u, context, judged, ratio);
  context.lineWidth = 1.5 * ratio;
  drawForecast(u, context, judged, ratio);
  context.setLineDash([]);
  drawStates(u, context, judged, ratio);
  drawMarks(u, context, judged, ratio);
  context.restore();
}
