// Charts of a run: uPlot over series of the API. A drag, or the form, shows some steps, asked for anew so that they are as fine as is kept.

import { integer, position, style, withUnit, words } from "./format.js";
import { draw, forecastOf } from "./judged.js";

const uPlot = window.uPlot;
const RELOAD_MS = 5000;
const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5"];
const LOGARITHMIC_FROM = 20; // largest over smallest value

const board = document.getElementById("charts");
const form = document.getElementById("zoom");
const api = board.dataset.api;
const charts = new Map();
let zoom = null, judged = null, turn = 0, loadedAt = 0, due = null;

async function get(path) {
  const answer = await fetch(api + path, { cache: "no-cache" });
  if (!answer.ok) return null;
  return answer.json();
}

async function series(name, points) {
  const range = zoom ? `&from_step=${zoom.from}&to_step=${zoom.to}` : "";
  const answer = await get(`/series/${encodeURIComponent(name)}?points=${points}${range}`);
  return answer ? answer.points.filter((point) => point.value != null) : [];
}

async function judgements() {
  const [run, findings, states, events, gaps] = await Promise.all(
    [get(""), get("/findings?status=all"), get("/states"), get("/events"), get("/gaps")]);
  if (!run) return null;
  return {
    run, findings: findings?.findings ?? [], states: states?.states ?? [], gaps: gaps?.gaps ?? [],
    events: (events?.events ?? []).filter((each) => !each.automatic || each.kind === "restart"),
  };
}

function summarise(points, name, unit) {
  if (!points.length) return "";
  const first = points[0], last = points[points.length - 1];
  const least = points.reduce((a, b) => (b.value < a.value ? b : a));
  const most = points.reduce((a, b) => (b.value > a.value ? b : a));
  const at = (point) => `${withUnit(point.value, unit)} at step ${integer(point.step)}`;
  return `${words(name)}: ${at(first)}, ${at(last)}; least ${at(least)}, most ${at(most)}.`;
}

function latest(kept, unit) {
  const last = kept.map(([name, points]) => [words(name), points[points.length - 1]]);
  const step = Math.max(...last.map(([, point]) => point.step));
  return `At step ${integer(step)}: ${last.map(([name, point]) => `${name} ${withUnit(point.value, unit)}`).join(", ")}.`;
}

function bounds(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const log = low > 0 && high / low > LOGARITHMIC_FROM;
  if (log) return { log, low: low / 1.15, high: high * 1.15 };
  const margin = 0.06 * (high - low) || Math.abs(high) * 0.05 || 1;
  return { log, low: low >= 0 && low < 0.3 * high ? 0 : low - margin, high: high + margin };
}

// Where the lines of a logarithmic axis are: powers of ten, or 1, 2, 5 where it has few of them.
function logSplits(low, high) {
  const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
  const every = Math.ceil((to - from) / 6), steps = to - from <= 3 ? [1, 2, 5] : [1];
  const splits = [];
  for (let power = from; power <= to; power += every) for (const step of steps) splits.push(step * 10 ** power);
  return splits.filter((value) => value >= low && value <= high);
}

function options(figure, names, range, extent, width) {
  const unit = figure.dataset.unit;
  const axis = { stroke: style("--muted"), grid: { stroke: style("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const isWide = figure.classList.contains("chart-wide");
  return {
    width, height: isWide ? Math.min(340, Math.max(240, width * 0.4)) : 200,
    scales: {
      x: { time: false, range: () => extent },
      y: { distr: range.log ? 3 : 1, range: () => [range.low, range.high] },
    },
    series: [
      { label: "step", value: (_, value) => integer(value) },
      ...names.map((name, index) => ({
        label: words(name), stroke: style(COLOURS[index]), width: 1.6, spanGaps: true,
        dash: index === 1 && names.length === 2 ? [6, 3] : undefined,
        points: { show: (u, s) => u.data[s].reduce((n, v) => n + (v != null), 0) < 40, size: 4 },
        value: (_, value) => withUnit(value, unit === "s" ? "s" : ""),
      })),
    ],
    axes: [
      { ...axis, space: 70, size: 30, values: (_, ticks) => ticks.map(position) },
      { ...axis, size: 62, ...(range.log ? { splits: () => logSplits(range.low, range.high) } : {}), values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : withUnit(tick, unit))) },
    ],
    legend: { live: true },
    cursor: { drag: { x: true, y: false, setScale: false }, sync: { key: "run" }, points: { size: 6 } },
    hooks: {
      setSelect: [(u) => {
        const { left, width: wide } = u.select;
        if (wide < 5) return;
        u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        show(Math.max(Math.round(u.posToVal(left, "x")), 0), Math.round(u.posToVal(left + wide, "x")));
      }],
      draw: figure.dataset.judged === undefined ? [] : [(u) => { if (judged) draw(u, judged); }],
    },
  };
}

function paint(figure, names, found) {
  const plot = figure.querySelector(".plot"), summary = figure.querySelector(".summary");
  const kept = names.map((name, index) => [name, found[index]]).filter(([, points]) => points.length);
  const unit = figure.dataset.unit, text = kept.map(([name, points]) => summarise(points, name, unit)).join(" ");
  summary.textContent = kept.length ? latest(kept, unit) : "No points at these steps.";
  plot.setAttribute("aria-label", `${figure.dataset.title}. ${text || summary.textContent}`);
  charts.get(figure)?.destroy();
  charts.delete(figure);
  plot.replaceChildren();
  if (!kept.length) return;
  const data = uPlot.join(kept.map(([, points]) => [points.map((p) => p.step), points.map((p) => p.value)]));
  const values = kept.flatMap(([, points]) => points.map((point) => point.value));
  const first = data[0][0], last = data[0][data[0].length - 1];
  let extent = zoom ? [zoom.from, zoom.to] : [first, Math.max(last, first + 1)];
  if (figure.dataset.judged !== undefined && judged) {
    judged.first = first;
    judged.forecast = forecastOf(judged.run, first);
    if (judged.forecast && !zoom) {
      extent = [first, judged.forecast.to];
      values.push(judged.forecast.best, judged.forecast.worst);
    }
  }
  const width = plot.clientWidth;
  charts.set(figure, new uPlot(options(figure, kept.map(([name]) => name), bounds(values), extent, width), data, plot));
}

async function load() {
  const mine = ++turn;
  loadedAt = performance.now();
  try {
    const figures = [...board.querySelectorAll(".chart")];
    const judging = figures.some((each) => each.dataset.judged !== undefined) ? judgements() : null;
    const there = new Set((await get("/series"))?.series ?? []);
    await Promise.all(figures.map(async (figure) => {
      const names = JSON.parse(figure.dataset.series).filter((name) => there.has(name));
      const found = await Promise.all(names.map((name) => series(name, figure.dataset.points)));
      const known = await judging;
      if (mine !== turn) return;
      if (known) judged = known;
      paint(figure, names, found);
    }));
  } catch {
    return; // the next change tries again, and live.js says that nothing answers
  }
  if (mine === turn) board.dataset.loaded = String(Number(board.dataset.loaded ?? 0) + 1);
}

function show(from, to) {
  zoom = from == null || !(to > from) ? null : { from, to };
  form.elements.from_step.value = zoom ? zoom.from : "";
  form.elements.to_step.value = zoom ? zoom.to : "";
  const address = new URL(location.href);
  for (const [name, value] of [["from_step", zoom?.from], ["to_step", zoom?.to]]) {
    if (value == null) address.searchParams.delete(name); else address.searchParams.set(name, value);
  }
  history.replaceState(null, "", address);
  load();
}

function entered(name, otherwise) {
  const value = form.elements[name].value.trim();
  return /^[0-9]+$/.test(value) ? Number(value) : otherwise;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const x = charts.values().next().value?.scales.x;
  show(entered("from_step", 0), entered("to_step", Math.ceil(x?.max ?? 0)));
});
document.getElementById("zoom-all").addEventListener("click", () => show(null, null));
document.addEventListener("stallwatch:changed", () => {
  due ??= setTimeout(() => { due = null; load(); }, Math.max(RELOAD_MS - (performance.now() - loadedAt), 0));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", load);
let width = innerWidth, resizing = null;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  clearTimeout(resizing);
  resizing = setTimeout(load, 200);
});

const given = new URL(location.href).searchParams;
for (const name of ["from_step", "to_step"]) {
  if (/^[0-9]+$/.test(given.get(name) ?? "")) form.elements[name].value = given.get(name);
}
form.hidden = false;
const start = entered("from_step", null), end = entered("to_step", null);
if (start != null && end != null && end > start) zoom = { from: start, to: end };
load();
