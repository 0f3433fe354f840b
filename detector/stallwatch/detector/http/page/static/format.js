// Numbers as text, as the server writes them.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });

export function integer(value) {
  return value == null ? "-" : whole.format(value);
}

export function position(value) {
  return Math.abs(value) >= 10000 ? compact.format(value) : whole.format(value);
}

export function number(value) {
  if (value == null || !Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3).replace(/\.?0+e/, "e") : short.format(value);
}

export function seconds(value) {
  if (value == null || !Number.isFinite(value)) return "-";
  if (value >= 120) return `${short.format(value / 60)} min`;
  return value >= 1 || value === 0 ? `${short.format(value)} s` : `${short.format(1000 * value)} ms`;
}

export function withUnit(value, unit) {
  return unit === "s" ? seconds(value) : number(value);
}

export function words(name) {
  return name.replace(/_seconds$/, "").replaceAll("_", " ");
}

export function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
