// Keeps a page true: asks for it again each second, and replaces the parts that have changed.
// The server renders everything, so what is shown here and without scripts is the same.

const EVERY_MS = 1000;
const SLOWEST_MS = 15000;

const linkState = document.getElementById("link-state");
const announcer = document.getElementById("announcer");
let shown = "";
let wait = EVERY_MS;
const served = new WeakMap(); // parts as the server gave them: readers open details

function findings(root) {
  return new Map([...root.querySelectorAll("[data-finding]")].map((each) => [each.dataset.finding, each]));
}

// Before what is known is replaced: which findings are new.
function announce(next) {
  const known = findings(document);
  const fresh = [...findings(next)].filter(([id]) => !known.has(id)).map(([, each]) => each.dataset.announce);
  if (fresh.length) announcer.textContent = fresh.slice(0, 3).join(" ");
}

function keepOpen(old, part) {
  for (const each of old.querySelectorAll("details[id][open]")) {
    const same = part.querySelector(`#${CSS.escape(each.id)}`);
    if (same) same.open = true;
  }
  if (old.matches("details[open]")) part.open = true;
}

// A picture that is there already is kept: a new one would flicker.
function keepPictures(old, part) {
  const there = new Map([...old.querySelectorAll("img")].map((each) => [each.getAttribute("src"), each]));
  for (const each of part.querySelectorAll("img")) {
    const same = there.get(each.getAttribute("src"));
    if (same) each.replaceWith(same);
  }
}

function replace(old, part) {
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const scrolled = [...old.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
  keepOpen(old, part);
  keepPictures(old, part);
  old.replaceWith(part);
  [...part.querySelectorAll(".scroll")].forEach((each, index) => { each.scrollLeft = scrolled[index] || 0; });
  if (!focused) return;
  const href = focused.getAttribute("href");
  const again = focused.id ? part.querySelector(`#${CSS.escape(focused.id)}`)
    : href ? part.querySelector(`a[href="${CSS.escape(href)}"]`)
    : part.querySelector(focused.tagName);
  if (again) again.focus({ preventScroll: true });
}

// A run grows series: their charts come where the server puts them.
function addCharts(next) {
  const board = document.getElementById("charts");
  if (!board) return Boolean(next.getElementById("charts"));
  for (const figure of next.querySelectorAll("#charts .chart")) {
    if (!document.getElementById(figure.id)) board.append(document.importNode(figure, true));
  }
  return false;
}

function show(text) {
  if (text === shown) return;
  const next = new DOMParser().parseFromString(text, "text/html");
  const version = next.documentElement.dataset.version;
  if (version && version !== document.documentElement.dataset.version) {
    location.reload(); // the service was updated: its scripts are others
    return;
  }
  const first = shown === "";
  shown = text;
  if (!first) announce(next);
  let changed = false;
  for (const old of document.querySelectorAll("[data-live]")) {
    const part = next.getElementById(old.id);
    if (!part || part.outerHTML === (served.get(old) ?? old.outerHTML)) continue;
    const copy = document.importNode(part, true);
    served.set(copy, part.outerHTML);
    replace(old, copy);
    changed = true;
  }
  document.title = next.title;
  if (addCharts(next)) {
    location.reload(); // the first ones bring scripts along
    return;
  }
  if (changed) document.dispatchEvent(new Event("stallwatch:changed"));
}

async function look() {
  try {
    const answer = await fetch(location.href, { cache: "no-cache", signal: AbortSignal.timeout(10000) });
    if (answer.redirected || answer.status === 401) {
      location.reload(); // the token is no longer valid: there is a form for another one
      return;
    }
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.text());
    wait = EVERY_MS;
    if (linkState.textContent) linkState.textContent = "";
  } catch {
    if (!linkState.textContent) {
      linkState.textContent = `Not connected: shown as of ${new Date().toLocaleTimeString()}`;
    }
    wait = Math.min(2 * wait, SLOWEST_MS);
  }
}

async function watch() {
  if (!document.hidden) await look();
  setTimeout(watch, wait);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
setTimeout(watch, EVERY_MS);
