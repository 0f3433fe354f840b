// The heat map of ranks: a column a rank, a row a number, wrapped into bands that fit the width.

import { integer, number, seconds, style } from "./format.js";

const EVERY_MS = 5000;
const GUTTER = 76, BAND_GAP = 22, LEAST_CELL = 4, LARGEST_CELL = 44;
const LABELS = {
  lag_steps: "step lag", step_seconds: "step", input_seconds: "input", forward_seconds: "forward",
  backward_seconds: "backward", sync_seconds: "sync wait", optimizer_seconds: "optimizer", loss: "loss",
  steps_missing: "missing",
};
// How far from the median is much, at least: of the median, or in the number's own unit.
const LEAST_SHARE = 0.02, LEAST = { lag_steps: 1, steps_missing: 1 };

const heat = document.getElementById("heat");
const canvas = document.getElementById("heat-canvas");
const readout = document.getElementById("heat-readout");
let ranks = [], rows = [], layout = null, chosen = -1, loadedAt = -Infinity, due = null;

const middle = (sorted) => (sorted.length ? sorted[sorted.length >> 1] : 0);

function measure(name) {
  const known = ranks.map((rank) => rank[name]).filter((value) => value != null).sort((a, b) => a - b);
  if (!known.length || (name === "steps_missing" && !known[known.length - 1])) return null;
  const median = middle(known);
  const spread = 1.4826 * middle(known.map((value) => Math.abs(value - median)).sort((a, b) => a - b));
  return { name, median, scale: Math.max(spread, LEAST[name] ?? LEAST_SHARE * Math.abs(median), 1e-9) };
}

function rgb(name) {
  const hex = style(name);
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// From as usual to much more (or less): six spreads off is full colour.
function colour(z, low, usual, high) {
  const share = Math.min(Math.max(Math.abs(z) - 1, 0) / 5, 1), end = z < 0 ? low : high;
  return `rgb(${usual.map((value, index) => Math.round(value + share * (end[index] - value))).join(",")})`;
}

function arrange() {
  const around = getComputedStyle(heat);
  const width = heat.clientWidth - parseFloat(around.paddingLeft) - parseFloat(around.paddingRight);
  const cell = Math.min(Math.max(Math.floor((width - GUTTER) / ranks.length), LEAST_CELL), LARGEST_CELL);
  const across = Math.max(Math.min(Math.floor((width - GUTTER) / cell), ranks.length), 1);
  const tall = ranks.length > 2 * across ? 13 : 18;
  const band = rows.length * tall + BAND_GAP;
  return { width, cell, across, band, tall, height: Math.ceil(ranks.length / across) * band };
}

function draw() {
  rows = heat.dataset.columns.split(" ").map(measure).filter(Boolean);
  if (!ranks.length || !rows.length) return;
  layout = arrange();
  const ratio = devicePixelRatio, { width, height, cell, across, band, tall } = layout;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "11px system-ui, sans-serif";
  const low = rgb("--heat-low"), usual = rgb("--heat-mid"), high = rgb("--heat-high");
  const gap = cell >= 8 ? 1 : 0;
  ranks.forEach((rank, index) => {
    const x = GUTTER + (index % across) * cell, y = Math.floor(index / across) * band;
    rows.forEach((row, at) => {
      const value = rank[row.name];
      if (value == null) return;
      context.fillStyle = colour((value - row.median) / row.scale, low, usual, high);
      context.fillRect(x, y + at * tall, cell - gap, tall - 1);
    });
    if (rank.findings.length) {
      context.fillStyle = style("--critical");
      context.fillRect(x, y + rows.length * tall, cell - gap, 3);
    }
  });
  context.fillStyle = style("--muted");
  for (let index = 0; index < ranks.length; index += across) {
    const y = Math.floor(index / across) * band;
    context.textAlign = "right";
    rows.forEach((row, at) => context.fillText(LABELS[row.name] ?? row.name, GUTTER - 6, y + at * tall + tall / 2 + 4));
    const last = Math.min(index + across, ranks.length) - 1;
    context.textAlign = "left";
    context.fillText(`${ranks[index].rank}`, GUTTER, y + rows.length * tall + 15);
    if (last > index) {
      context.textAlign = "right";
      context.fillText(`${ranks[last].rank}`, GUTTER + (last - index + 1) * cell, y + rows.length * tall + 15);
    }
  }
  if (chosen >= 0 && chosen < ranks.length) {
    context.strokeStyle = style("--text");
    context.lineWidth = 2;
    context.strokeRect(GUTTER + (chosen % across) * cell - 1, Math.floor(chosen / across) * band, cell + 1, rows.length * tall);
  }
}

function tell() {
  const rank = ranks[chosen];
  if (!rank) return;
  const value = (row) => {
    const own = rank[row.name], show = row.name.endsWith("_seconds") ? seconds : number;
    return `${LABELS[row.name] ?? row.name} ${show(own)}${own == null || own === row.median ? "" : ` (median ${show(row.median)})`}`;
  };
  const named = rank.findings.length ? `; named by ${rank.findings.join(", ").replaceAll("_", " ")}` : "";
  readout.textContent = `Rank ${integer(rank.rank)}${rank.node ? ` on ${rank.node}` : ""}, ${rank.state}: ${rows.map(value).join(", ")}${named}.`;
}

function choose(index) {
  const next = Math.min(Math.max(index, 0), ranks.length - 1);
  if (next === chosen) return;
  chosen = next;
  draw();
  tell();
}

function open() {
  if (ranks[chosen]) location.assign(heat.dataset.address + ranks[chosen].rank);
}

function under(event) {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left - GUTTER) / layout.cell);
  const index = Math.floor((event.clientY - box.top) / layout.band) * layout.across + column;
  return column >= 0 && column < layout.across && index < ranks.length ? index : -1;
}

async function load() {
  loadedAt = performance.now();
  try {
    const answer = await fetch(heat.dataset.api, { cache: "no-cache" });
    if (!answer.ok) return;
    ranks = (await answer.json()).ranks;
  } catch {
    return; // live.js says that nothing answers
  }
  heat.hidden = !ranks.length;
  draw();
  heat.dataset.loaded = String(ranks.length);
}

if (heat) {
  canvas.addEventListener("pointermove", (event) => { if (layout && under(event) >= 0) choose(under(event)); });
  canvas.addEventListener("click", (event) => {
    if (!layout || under(event) < 0) return;
    choose(under(event));
    open();
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -layout?.across, ArrowDown: layout?.across }[event.key];
    if (step) choose(chosen + step);
    else if (event.key === "Home") choose(0);
    else if (event.key === "End") choose(ranks.length - 1);
    else if (event.key === "Enter") open();
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("focus", () => { if (chosen < 0) choose(0); });
  document.addEventListener("stallwatch:changed", () => {
    due ??= setTimeout(() => { due = null; load(); }, Math.max(EVERY_MS - (performance.now() - loadedAt), 0));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("resize", draw);
  load();
}
