"use strict";
// Sorting, filtering and choosing columns. Without this script the tables stand as they are.
// What was chosen stands behind the # of the address, so that an address shares it.

const tables = [...document.querySelectorAll("table.board")].map((table) => ({
  table,
  section: table.closest("section"),
  body: table.tBodies[0],
  rows: [...table.tBodies[0].rows],
}));
const headers = [...tables[0].table.tHead.rows[0].cells];
const ENTRY = 1;
const SIZE = 4;
const filters = document.getElementById("filters");
const tabs = [...document.querySelectorAll('.tabs input')];
const boxes = [...document.querySelectorAll(".columns input")];
const compare = document.getElementById("compare");
const MOST = 4;

function columnName(cell) {
  return cell.dataset.name;
}
function attackOf(cell) {
  const small = cell.querySelector("small");
  return small ? small.textContent : "";
}
for (const { table } of tables) {
  for (const cell of table.tHead.rows[0].cells) {
    cell.dataset.name = cell.textContent.trim().replace(/\s+/g, " ");
  }
}

// A cell's first number: "0.64 [0.52, 0.77]", "1=", "135M", "> 1 [0.8, > 1]". Nothing measured is null, and sorts last.
function number(text) {
  const found = /^([<>]\s*)?([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)([KMB](?![a-z]))?/.exec(text.trim());
  if (!found) return null;
  const size = Number(found[2]) * ({ K: 1e3, M: 1e6, B: 1e9 }[found[3]] || 1);
  const side = (found[1] || "").trim();
  return side === ">" ? size + 1e-9 : side === "<" ? size - 1e-9 : size;
}
function key(row, column, sort) {
  const text = row.cells[column].textContent.trim();
  if (text === "—") return null;
  // Measured at different doses
  if (columnName(headers[column]) === "eps50" && "unordered" in row.closest("table").dataset) return null;
  return sort === "number" ? number(text) : text.toLowerCase();
}

function readState() {
  const hash = location.hash.slice(1);
  const state = new URLSearchParams(hash.includes("=") ? hash : "");
  return {
    q: state.get("q") || "",
    track: state.get("track") || "",
    attack: state.get("attack") || "",
    size: state.get("size") || "",
    ranked: state.get("ranked") === "1",
    sort: state.get("sort") || "",
    columns: state.has("columns") ? state.get("columns").split(",") : null,
  };
}
function writeState() {
  const state = new URLSearchParams();
  const tab = tabs.find((each) => each.checked);
  if (tab && !tab.defaultChecked) state.set("track", tab.value);
  for (const name of ["q", "attack", "size"]) {
    const value = filters.elements[name].value.trim();
    if (value) state.set(name, value);
  }
  if (filters.elements.ranked.checked) state.set("ranked", "1");
  if (sorted) state.set("sort", `${columnName(headers[sorted.column])}:${sorted.down ? "down" : "up"}`);
  if (boxes.some((box) => box.checked !== box.defaultChecked)) {
    state.set("columns", boxes.filter((box) => box.checked).map((box) => box.id.slice(5)).join(","));
  }
  const text = state.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

let sorted = null;
function sortBy(column, down) {
  sorted = column === null ? null : { column, down };
  for (const { table, body, rows } of tables) {
    const order = rows.map((row, place) => ({ row, place, key: column === null ? place : key(row, column, headers[column].dataset.sort) }));
    order.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
      const way = typeof a.key === "string" ? a.key.localeCompare(b.key) : a.key - b.key;
      return (down ? -way : way) || a.place - b.place;
    });
    body.append(...order.map((each) => each.row));
    [...table.tHead.rows[0].cells].forEach((cell, index) => {
      const active = index === column;
      if (active) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      cell.querySelector("button").textContent = active ? (down ? "▼" : "▲") : "↕";
    });
  }
}

function filter() {
  const words = filters.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  const open = tabs.find((each) => each.checked);
  const attack = filters.elements.attack.value;
  const [from, to] = filters.elements.size.value.split("-").map(Number);
  const column = attack ? headers.findIndex((cell) => attackOf(cell) === attack) : -1;
  if (attack) document.body.dataset.attack = attack;
  else delete document.body.dataset.attack;
  let shown = 0;
  let all = 0;
  for (const { section, rows } of tables) {
    const here = section.dataset.track === open.value;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const size = number(row.cells[SIZE].textContent);
      const fits =
        words.every((word) => text.includes(word)) &&
        (column < 0 || row.cells[column].textContent.trim() !== "—") &&
        (!filters.elements.size.value || (size >= from && size < to)) &&
        (!filters.elements.ranked.checked || row.cells[0].textContent.trim() !== "—");
      row.hidden = !fits;
      if (here) all += 1;
      if (fits && here) shown += 1;
    }
  }
  document.getElementById("shown").textContent = shown === all ? `${all} entries` : `${shown} of ${all} entries`;
}

// Rates of what broke are shaded by their value, so that a table is read at a glance.
const RATES = headers.map((cell, column) => [cell, column]).filter(([cell]) => /^(Worst case|MASR|PASR|INIT)/.test(columnName(cell)));
function shade(row) {
  for (const [, column] of RATES) {
    const value = number(row.cells[column].textContent);
    if (value !== null) row.cells[column].style.setProperty("--v", value);
  }
}

// A rate's interval as a bar on a rail from 0 to 1, so that overlaps are seen down the column that ranks.
const WORST = headers.findIndex((cell) => columnName(cell) === "Worst case");
function drawBar(cell) {
  const numbers = (cell.textContent.match(/\d+\.\d+/g) || []).map(Number);
  if (numbers.length !== 3) return;
  const bar = document.createElement("span");
  bar.className = "bar";
  bar.setAttribute("aria-hidden", "true");
  bar.style.setProperty("--value", numbers[0]);
  bar.style.setProperty("--low", numbers[1]);
  bar.style.setProperty("--high", numbers[2]);
  cell.append(bar);
}

const chosen = new Set();
function showChosen() {
  compare.hidden = chosen.size < 2;
  compare.textContent = `Compare ${chosen.size} entries`;
  compare.href = `compare.html?entries=${[...chosen].join(",")}`;
  for (const box of document.querySelectorAll(".pick")) box.disabled = !box.checked && chosen.size >= MOST;
}
function addChoice(row) {
  const link = row.cells[ENTRY].querySelector("a");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.className = "pick";
  box.title = "Choose two to four entries to compare";
  box.setAttribute("aria-label", `Compare ${link.textContent}`);
  const slug = link.getAttribute("href").replace(/^entries\//, "").replace(/\.html$/, "");
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(slug);
    else chosen.delete(slug);
    showChosen();
  });
  row.cells[ENTRY].prepend(box);
}

function apply() {
  const state = readState();
  for (const name of ["q", "attack", "size"]) filters.elements[name].value = state[name];
  const tab = tabs.find((each) => each.value === state.track) || tabs.find((each) => each.defaultChecked);
  tab.checked = true;
  filters.elements.ranked.checked = state.ranked;
  for (const box of boxes) box.checked = state.columns ? state.columns.includes(box.id.slice(5)) : box.defaultChecked;
  const [name, way] = state.sort.split(":");
  const column = headers.findIndex((cell) => columnName(cell) === name);
  sortBy(column < 0 ? null : column, way === "down");
  filter();
}

for (const { table, rows } of tables) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Sort by ${columnName(cell)}`);
    button.addEventListener("click", () => {
      if (sorted && sorted.column === column && sorted.down) sortBy(null, false);
      else sortBy(column, Boolean(sorted && sorted.column === column));
      writeState();
    });
    cell.append(button);
  });
  for (const row of rows) {
    addChoice(row);
    shade(row);
    drawBar(row.cells[WORST]);
  }
}
filters.hidden = false;
filters.addEventListener("input", () => {
  filter();
  writeState();
});
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => {
  // After the form has emptied its fields
  setTimeout(() => {
    for (const box of boxes) box.checked = box.defaultChecked;
    sortBy(null, false);
    filter();
    writeState();
  });
});
for (const box of boxes) box.addEventListener("change", writeState);
for (const tab of tabs) {
  tab.addEventListener("change", () => {
    filter();
    writeState();
  });
}
window.addEventListener("hashchange", () => {
  // A link to what a number means is no state, and must not undo one
  const hash = location.hash.slice(1);
  if (!hash || hash.includes("=")) apply();
});
apply();
