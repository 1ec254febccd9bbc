// Sorting, filtering, tooltips and the theme. The page is complete without this script.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// ---- theme -----------------------------------------------------------------------------------------------

const root = document.documentElement;

function stored(value) {
  try { // some browsers refuse storage to pages from disk
    return value === undefined ? localStorage.getItem("theme") : localStorage.setItem("theme", value);
  } catch {
    return null;
  }
}

const isDark = () => root.dataset.theme
  ? root.dataset.theme === "dark"
  : matchMedia("(prefers-color-scheme: dark)").matches;

if (stored() === "dark" || stored() === "light") root.dataset.theme = stored();

one("#theme").hidden = false;
one("#theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  stored(root.dataset.theme);
});

// ---- tooltips: hover, focus and tap ----------------------------------------------------------------------

const tip = one("#tip");
let tipped = null;

for (const owner of all(".sheet [title]")) {
  owner.dataset.tip = owner.title;
  owner.removeAttribute("title");
}

function showTip(owner) {
  const cell = owner?.closest?.("[data-tip]");
  if (cell === tipped) return;
  tipped?.removeAttribute("aria-describedby");
  tipped = cell ?? null;
  tip.hidden = !tipped;
  if (!tipped) return;
  tip.textContent = tipped.dataset.tip;
  tipped.setAttribute("aria-describedby", "tip");
  place();
}

function place() {
  const box = tipped.getBoundingClientRect();
  const size = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - size.width / 2), innerWidth - size.width - 8);
  const below = box.bottom + 6;
  tip.style.left = `${left}px`;
  tip.style.top = `${below + size.height > innerHeight ? Math.max(8, box.top - size.height - 6) : below}px`;
}

document.addEventListener("pointerover", (event) => { if (event.pointerType === "mouse") showTip(event.target); });
document.addEventListener("focusin", (event) => showTip(event.target));
document.addEventListener("focusout", () => showTip(null));
document.addEventListener("click", (event) => showTip(event.target));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") showTip(null); });
addEventListener("scroll", () => { // moving the focus scrolls
  if (tipped?.contains(document.activeElement)) place();
  else showTip(null);
}, { capture: true, passive: true });

// ---- tables: sorting, and arrows to move between cells ---------------------------------------------------

const compareText = new Intl.Collator(undefined, { numeric: true }).compare;

function sorter(column, sign) {
  return (a, b) => {
    const [x, y] = [a, b].map((row) => row.cells[column]);
    const blank = (!x.textContent.trim()) - (!y.textContent.trim()); // always last
    const [v, w] = [x, y].map((cell) => Number(cell.dataset.key ?? (cell.textContent.trim() || NaN)));
    const known = Number.isNaN(v) - Number.isNaN(w); // numbers before notes
    return blank || known || sign * (Number.isNaN(v) ? compareText(x.textContent, y.textContent) : v - w);
  };
}

function sort(table, header) {
  const column = header.cellIndex;
  const falling = header.ariaSort ? header.ariaSort === "ascending" : one(".arrow", header)?.textContent.includes("↑");
  all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
  header.ariaSort = falling ? "descending" : "ascending";
  for (const body of table.tBodies) {
    body.append(...[...body.rows].sort(sorter(column, falling ? -1 : 1)));
  }
}

function move(event) {
  const cell = event.target.closest("tbody th, tbody td");
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!cell || !step) return;
  const rows = all("tbody tr", event.currentTarget).filter((row) => !row.hidden);
  const shown = (row) => [...row.cells].filter((other) => other.offsetParent);
  const row = rows[rows.indexOf(cell.parentElement) + step[0]];
  const next = row && shown(row)[shown(cell.parentElement).indexOf(cell) + step[1]];
  if (!next) return;
  event.preventDefault();
  focusCell(event.currentTarget, next);
}

function focusCell(table, cell) {
  all("tbody [tabindex='0']", table).forEach((other) => { other.tabIndex = -1; });
  cell.tabIndex = 0;
  cell.focus();
}

for (const table of all(".sheet")) {
  for (const header of all("thead th", table)) {
    const name = one(".name", header);
    const button = element("button", { type: "button" });
    name.replaceWith(button);
    button.append(name, ...all(".arrow", header));
    button.addEventListener("click", () => sort(table, header));
  }
  all("tbody [data-tip]", table).forEach((cell, i) => { cell.tabIndex = i ? -1 : 0; });
  table.addEventListener("keydown", move);
}

// ---- filters: text and chips ------------------------------------------------------

const chips = all(".chips button");
const filter = one("#filter");

function chosen(kind) {
  return new Set(chips.filter((c) => c.dataset.kind === kind && c.ariaPressed === "true").map((c) => c.value));
}

function apply() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const kinds = { regularizer: chosen("regularizer"), generator: chosen("generator") };
  for (const item of all("[data-regularizer][data-generator]")) {
    const out = Object.entries(kinds).some(
      ([kind, names]) => names.size && item.dataset[kind] && !names.has(item.dataset[kind]),
    );
    const row = item.tagName === "TR";
    const text = row ? item.textContent.toLowerCase() : "";
    const away = out || (row && !words.every((word) => text.includes(word)));
    item.toggleAttribute("hidden", away);
    if (item instanceof SVGElement) item.style.display = away ? "none" : "";
  }
  one("#clear").hidden = !words.length && !kinds.regularizer.size && !kinds.generator.size;
}

for (const chip of chips) {
  chip.addEventListener("click", () => {
    chip.ariaPressed = String(chip.ariaPressed !== "true");
    apply();
  });
}

one("#clear").addEventListener("click", () => {
  filter.value = "";
  chips.forEach((chip) => { chip.ariaPressed = "false"; });
  apply();
});

filter.addEventListener("input", apply);
one(".tools").hidden = false;

// ---- samples: one generator and guidance at a time -------------------------------------------------------

for (const article of all(".samples")) {
  const groups = all("[data-pick]", article);
  if (groups.length < 2) continue;
  const buttons = groups.map((group) => element("button", { type: "button", textContent: group.dataset.pick }));
  const pick = (chosenGroup) => groups.forEach((group, i) => {
    group.hidden = group !== chosenGroup;
    buttons[i].ariaPressed = String(group === chosenGroup);
  });
  buttons.forEach((button, i) => button.addEventListener("click", () => pick(groups[i])));
  one(".picks", article).append(...buttons);
  pick(groups[0]);
}

// A link to a section or a protocol opens it, and all that it lies in.
function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  if (!target) return;
  const folds = [target.querySelector(":scope > details")];
  for (let at = target; at; at = at.parentElement) folds.push(at);
  folds.forEach((fold) => { if (fold instanceof HTMLDetailsElement) fold.open = true; });
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
