// Filters by dataset, the tokenizer's size, latent and judge. The page is complete without this script.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);
const filters = all("[data-filter]");
const chosen = (name) => one(`[data-filter="${name}"]`).value;
const away = (wanted, value) => Boolean(wanted) && wanted !== value;

function apply() {
  const [dataset, size, latent, judge] = ["dataset", "tokenizer size", "latent", "judge"].map(chosen);
  for (const row of all("#measured tr[data-size]")) {
    row.hidden = away(size, row.dataset.size) || away(latent, row.dataset.latent);
  }
  for (const cell of all("[data-judge]")) {
    cell.hidden = Boolean(cell.dataset.judge) && away(judge, cell.dataset.judge);
  }
  for (const group of all(".group")) {
    const judges = all("th[data-judge]", group).map((cell) => cell.dataset.judge);
    const judged = !judge || judges.includes(judge);
    group.hidden = !judged || !one("tbody tr:not([hidden])", group);
  }
  for (const section of all("section[data-dataset]")) {
    section.hidden = away(dataset, section.dataset.dataset) || !one(".group:not([hidden])", section);
  }
  one("#clear").hidden = !filters.some((filter) => filter.value);
}

filters.forEach((filter) => filter.addEventListener("change", apply));
one("#clear").addEventListener("click", () => {
  filters.forEach((filter) => { filter.value = ""; });
  apply();
});
one(".tools").hidden = false;
apply(); // a browser may have kept what was chosen before

// A link to a protocol opens what it lies in.
function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  for (let at = target; at; at = at.parentElement) if (at instanceof HTMLDetailsElement) at.open = true;
  target?.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
