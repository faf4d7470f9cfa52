"use strict";
// Two to four entries side by side. Their numbers come as one small script an entry, which a page may load from a file
// as well as from a server. Everything from outside is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const SLUG = /^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$/;
const MOST = 4;
const NONE = "—";
const form = document.getElementById("choice");
const message = document.getElementById("message");
const result = document.getElementById("result");
const names = new Map(asabenchEntries.map(([slug, name]) => [slug, name]));

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
function drawn(tag, properties, title) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  if (title) {
    const text = document.createElementNS(SVG, "title");
    text.textContent = title;
    made.append(text);
  }
  return made;
}

const two = (value) => value.toFixed(2);
function rate(triple) {
  if (!triple) return NONE;
  const [value, low, high] = triple;
  return low === null ? two(value) : `${two(value)} [${two(low)}, ${two(high)}]`;
}
function change(value) {
  if (value === null) return NONE;
  const text = two(value).replace("-0.00", "0.00");
  return value > 0 && text !== "0.00" ? `+${text}` : text;
}
function size(count) {
  for (const [unit, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (count >= unit * 0.9995) return `${Number((count / unit).toPrecision(3))}${letter}`;
  }
  return String(count);
}

function wanted() {
  const given = new URLSearchParams(location.search).get("entries") || "";
  return [...new Set(given.split(",").filter(Boolean))];
}

function load(slug) {
  return new Promise((resolve, reject) => {
    const script = element("script", { src: `entries/${slug}.js` });
    script.onload = () => resolve(window.asabenchData[slug]);
    script.onerror = () => reject(new Error(slug));
    document.head.append(script);
  });
}

function table(entries) {
  const attacks = [...new Set(entries.flatMap((entry) => Object.keys(entry.attacks)))];
  const tasks = [...new Set(entries.flatMap((entry) => Object.keys(entry.tasks)))];
  const at = (entry, attack, name) => (entry.attacks[attack] ? entry.attacks[attack][name] : null);
  const lines = [
    ["Track", "rank", (entry) => entry.track],
    ["Measures", "measures", (entry) => entry.measures],
    ["Rank", "rank", (entry) => entry.rank || NONE],
    ["Flags", "flags", (entry) => entry.flags.join(", ") || NONE],
    ["Defence", "defence", (entry) => entry.defence || NONE],
    ["Base", "base", (entry) => entry.base || NONE],
    ["Size", "size", (entry) => `${size(entry.parameters)}, ${entry.layers} layers`],
    ["Dose", "dose", (entry) => String(entry.dose)],
    ["Prompts", "entry", (entry) => entry.prompts],
    ["Worst case", "worst", (entry) => rate(entry.worst) + (entry.worst ? ` ${entry.worstAttack}` : "")],
    ["INIT", "init", (entry) => rate(entry.init)],
    ...attacks.map((attack) => [`MASR ${attack}`, "masr", (entry) => rate(at(entry, attack, "masr"))]),
    ...attacks.map((attack) => [`PASR ${attack}`, "pasr", (entry) => rate(at(entry, attack, "pasr"))]),
    ["eps50, smallest", "eps50", (entry) => entry.eps50 || NONE],
    ["Benign answers", "benign", (entry) => rate(entry.benign)],
    ["Over-refusal", "over-refusal", (entry) => rate(entry.overRefusal)],
    ["Utility change", "change", (entry) => change(entry.change)],
    ...tasks.map((task) => [`Task ${task}`, "chance", (entry) => rate(entry.tasks[task])]),
    ["Judge", "judge", (entry) => entry.judge],
    ["Date", "date", (entry) => entry.date],
  ];
  const head = element("tr", {}, element("th", { scope: "col" }, "Number"));
  entries.forEach((entry, place) => {
    const link = element("a", { href: `entries/${entry.slug}.html` }, entry.name);
    head.append(element("th", { scope: "col" }, element("span", { class: `swatch line-${place}`, "aria-hidden": "true" }), link));
  });
  const body = element("tbody");
  for (const [name, term, value] of lines) {
    const line = element("tr", {}, element("th", { scope: "row" }, element("a", { class: "term", href: `index.html#about-${term}` }, name)));
    for (const entry of entries) line.append(element("td", {}, value(entry)));
    body.append(line);
  }
  const made = element("table", { class: "comparison" }, element("caption", {}, "The entries side by side"), element("thead", {}, head), body);
  return element("div", { class: "scroll", role: "region", "aria-label": "The entries side by side", tabindex: "0" }, made);
}

const BOX = { width: 460, height: 190, left: 34, right: 450, top: 22, bottom: 150 };
function chart(entries, attack, name, points, unit) {
  const series = entries.map((entry) => (entry.attacks[attack] ? points(entry.attacks[attack]) : []));
  const last = Math.max(...series.flat().map((point) => point[0])) || 1;
  const x = (value) => BOX.left + 8 + ((BOX.right - BOX.left - 16) * value) / last;
  const y = (value) => BOX.bottom - (BOX.bottom - BOX.top) * value;
  const said = entries.map((entry, place) => {
    const highest = series[place].reduce((best, point) => (!best || point[1] > best[1] ? point : best), null);
    return highest ? `${entry.name}: highest ${two(highest[1])} at ${unit} ${highest[0]}` : `${entry.name}: none`;
  });
  const svg = drawn("svg", { class: "lasr", viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": `${name}, ${attack}. ${said.join("; ")}` });
  const label = (text, properties) => {
    const made = drawn("text", properties);
    made.textContent = text;
    svg.append(made);
  };
  for (const value of [0, 0.5, 1]) {
    svg.append(drawn("path", { class: "grid", d: `M${BOX.left} ${y(value)}H${BOX.right}` }));
    label(value, { class: "y", x: BOX.left - 6, y: y(value) + 4 });
  }
  label(0, { class: "x", x: x(0), y: BOX.bottom + 17 });
  label(last, { class: "x", x: x(last), y: BOX.bottom + 17 });
  label(unit, { class: "x", x: (BOX.left + BOX.right) / 2, y: BOX.height - 6 });
  series.forEach((line, place) => {
    if (line.length) svg.append(drawn("path", { class: `line line-${place}`, d: `M${line.map((point) => `${x(point[0])},${y(point[1])}`).join("L")}` }));
    for (const point of line) {
      svg.append(drawn("circle", { class: `line-${place}`, r: 2.5, cx: x(point[0]), cy: y(point[1]) }, `${entries[place].name}, ${unit} ${point[0]}: ${rate(point.slice(1))}`));
    }
  });
  return element("figure", {}, svg, element("figcaption", {}, attack));
}

function charts(entries, heading, name, points, unit) {
  const attacks = [...new Set(entries.flatMap((entry) => Object.keys(entry.attacks)))];
  const kept = attacks.filter((attack) => entries.some((entry) => entry.attacks[attack] && points(entry.attacks[attack]).length));
  const grid = element("div", { class: "charts" }, ...kept.map((attack) => chart(entries, attack, name, points, unit)));
  const legend = element("p", { class: "legend" }, ...entries.map((entry, place) => element("span", { class: `key line-${place}` }, entry.name)));
  return element("section", {}, element("h2", {}, heading), legend, grid);
}

function cautions(entries) {
  const differs = (read) => new Set(entries.map(read)).size > 1;
  const said = [];
  if (differs((entry) => entry.track)) said.push("tracks (protocol, judge class, what is measured or the length of answers)");
  if (differs((entry) => entry.judge)) said.push("judges");
  if (differs((entry) => entry.prompts)) said.push("prompts");
  if (differs((entry) => String(entry.grid))) said.push("the doses behind eps50, which is not to be compared then");
  if (differs((entry) => entry.layers)) said.push("depth, with which MASR grows");
  return said.length ? [element("p", { class: "caution" }, element("strong", {}, "Compare with care."), ` The entries differ in: ${said.join("; ")}.`)] : [];
}

function fill(slugs) {
  [...form.querySelectorAll("select")].forEach((select, place) => {
    let group = null;
    for (const [slug, name, track] of asabenchEntries) {
      if (!group || group.label !== track) {
        group = element("optgroup", { label: track });
        select.append(group);
      }
      group.append(element("option", { value: slug }, name));
    }
    select.value = slugs[place] && names.has(slugs[place]) ? slugs[place] : "";
  });
  form.hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = [...form.querySelectorAll("select")].map((select) => select.value).filter(Boolean);
    location.search = `?entries=${[...new Set(chosen)].join(",")}`;
  });
}

async function show() {
  document.getElementById("no-script").remove();
  const slugs = wanted();
  const known = slugs.filter((slug) => SLUG.test(slug) && names.has(slug)).slice(0, MOST);
  fill(known);
  const unknown = slugs.filter((slug) => !names.has(slug));
  const said = [];
  if (unknown.length) said.push(`There is no entry ${unknown.join(", ")}.`);
  if (slugs.length - unknown.length > MOST) said.push(`Only the first ${MOST} entries are shown.`);
  if (known.length < 2) said.push("Choose two to four entries.");
  message.textContent = said.join(" ");
  if (!known.length) return;
  const entries = await Promise.all(known.map(load));
  document.title = `${entries.map((entry) => entry.name).join(", ")}: ASABench leaderboard`;
  result.append(
    ...cautions(entries),
    table(entries),
    charts(entries, "MASR by dose", "MASR by dose", (data) => data.doses, "dose"),
    charts(entries, "LASR by layer", "LASR by layer at the dose where each breaks most", (data) => data.lasr, "layer"),
  );
}
show().catch((error) => {
  message.textContent = `The numbers of ${error.message} could not be loaded.`;
});
