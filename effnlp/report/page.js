"use strict";

// Okabe and Ito's colours, told apart with every common kind of colour vision; then shapes tell on.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#a6761d"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];
const PREFIXES = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
const SMALL_PREFIXES = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];
const MANY = 3000; // from so many points on, the graphics card draws them

const sections = JSON.parse(document.getElementById("data").textContent);

/** The factor to divide by, and the unit that the value then has, for it to read well. */
function scaled(unit, value) {
  const size = Math.abs(value);
  if (unit === "s" && size >= 7200) return [3600, "h"];
  if (unit === "s" && size >= 120) return [60, "min"];
  if (["s", "J", "g"].includes(unit) && size > 0 && size < 1) {
    const [factor, prefix] = SMALL_PREFIXES.find(([factor]) => size >= factor * 0.9995) || SMALL_PREFIXES.at(-1);
    return [factor, prefix + unit];
  }
  if (unit === "s" || (!unit && size < 1000)) return [1, unit];
  const [factor, prefix] = PREFIXES.find(([factor]) => size >= factor * 0.9995) || [1, ""];
  return [factor, prefix + unit];
}

function human(unit, value, halfWidth) {
  if (value === null || value === undefined) return "–";
  const [factor, symbol] = scaled(unit, value);
  const shown = value / factor, size = Math.abs(shown);
  let places = size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  if (!symbol) places = Number.isInteger(shown) && size >= 2 ? 0 : size < 10 ? 4 : places;
  let text = !symbol && size > 0 && size < 1e-3 ? shown.toExponential(2) : shown.toFixed(places);
  const interval = halfWidth ? (halfWidth / factor).toFixed(places) : "0";
  if (Number(interval)) text += ` ± ${interval}`;
  return symbol ? text + (symbol === "/s" ? "" : " ") + symbol : text;
}

/** Positions of the points that no other dominates, from left to right. */
function frontierOf(section, x, y) {
  const sx = section.keys[x].up ? -1 : 1, sy = section.keys[y].up ? -1 : 1;
  const xs = section.values[x], ys = section.values[y];
  const order = xs.map((_, i) => i).filter((i) => xs[i] !== null && ys[i] !== null)
    .sort((a, b) => sx * (xs[a] - xs[b]) || sy * (ys[a] - ys[b]));
  const on = [];
  let best = Infinity, at = NaN;
  for (const i of order) {
    const value = sy * ys[i];
    if (value < best) { best = value; at = xs[i]; on.push(i); }
    else if (value === best && xs[i] === at) on.push(i); // identical points stand or fall together
  }
  return sx > 0 ? on : on.reverse();
}

const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function wrapped(text, width) {
  const lines = [""];
  for (const word of String(text).split(" ")) {
    if (lines.at(-1) && lines.at(-1).length + word.length + 1 > width) lines.push(word);
    else lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  return lines.map(escaped).join("<br>");
}

const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });

function element(name, text, attributes) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  return made;
}

function axisTitle(section, key) {
  const { unit, up } = section.keys[key];
  return `${escaped(key)}${unit ? ` (${unit === "/s" ? "per second" : unit})` : ""} ${up ? "↑" : "↓"}`;
}

function spansDecades(values) {
  const known = values.filter((value) => value !== null);
  const low = Math.min(...known), high = Math.max(...known);
  return low > 0 && high / low > 20;
}

function setUp(section, number) {
  const controls = document.querySelector(`[data-controls="${number}"]`);
  const axes = {}, logs = {};
  const keys = Object.keys(section.keys);
  if (!keys.length) { controls.parentElement.hidden = true; return; }
  const [quality, cost] = section.objectives;
  const start = { y: quality || keys[0], x: cost || keys.find((key) => key !== quality) || keys[0] };
  for (const name of ["x", "y"]) {
    axes[name] = controls.querySelector(`[data-axis="${name}"]`);
    logs[name] = controls.querySelector(`[data-log="${name}"]`);
    const families = new Map();
    for (const key of keys) {
      const family = key.split("/")[0];
      if (!families.has(family)) families.set(family, element("optgroup", undefined, { label: family }));
      families.get(family).append(option(key, key));
    }
    axes[name].append(...families.values());
    axes[name].value = start[name];
    logs[name].checked = spansDecades(section.values[start[name]]);
    axes[name].addEventListener("change", () => {
      logs[name].checked = spansDecades(section.values[axes[name].value]);
      draw();
    });
    logs[name].addEventListener("change", draw);
  }
  const colour = controls.querySelector("[data-colour]");
  const groups = Object.entries(section.groups);
  colour.append(option("", "one colour"), ...groups.map(([group, { name }]) => option(group, name)));
  colour.value = groups.length ? (section.groups.model ? "model" : groups[0][0]) : "";
  colour.addEventListener("change", draw);

  const plot = document.getElementById(`plot-${number}`);
  const status = document.querySelector(`[data-status="${number}"]`);
  let listening = false;

  function hover(i, x, y) {
    const value = (key) => human(section.keys[key].unit, section.values[key][i], (section.halfWidths[key] || {})[i]);
    const seeds = section.seeds[i];
    return [
      `<b>${wrapped(section.labels[i], 44)}</b>`,
      `${escaped(y)}  ${value(y)}`,
      `${escaped(x)}  ${value(x)}`,
      `${seeds.length} seed pair${seeds.length === 1 ? "" : "s"}: ${escaped(seeds.slice(0, 6).join(", "))}`,
      `<i>${escaped(section.folders[i][0])}</i>`,
    ].join("<br>");
  }

  function draw() {
    const x = axes.x.value, y = axes.y.value, xs = section.values[x], ys = section.values[y];
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    const dim = style.getPropertyValue("--dim").trim(), surface = style.getPropertyValue("--surface").trim();
    const drawable = (i) => xs[i] !== null && ys[i] !== null
      && !(logs.x.checked && xs[i] <= 0) && !(logs.y.checked && ys[i] <= 0);
    const shown = xs.map((_, i) => i).filter(drawable);
    const frontier = frontierOf(section, x, y);
    const on = new Set(frontier);
    const made = colour.value ? section.groups[colour.value].made : xs.map(() => "configurations");
    const choices = [...new Set(made)].sort();
    const kind = shown.length > MANY ? "scattergl" : "scatter";
    const line_ = frontier.filter(drawable);
    const traces = [{
      type: "scatter", mode: "lines", x: line_.map((i) => xs[i]), y: line_.map((i) => ys[i]), hoverinfo: "skip",
      name: "frontier", line: { color: dim, width: 1.5, dash: "dot", shape: section.keys[x].up ? "vh" : "hv" },
    }];
    const bars = (key, members) => {
      const widths = section.halfWidths[key] || {};
      return { type: "data", array: members.map((i) => widths[i] || 0), thickness: 1, width: 0,
        visible: members.some((i) => widths[i]), color: dim };
    };
    const points = (choice, members, member) => ({
      type: kind, mode: "markers", name: escaped(choice), legendgroup: choice, customdata: members,
      x: members.map((i) => xs[i]), y: members.map((i) => ys[i]),
      error_x: bars(x, members), error_y: bars(y, members),
      hoverinfo: "text", hovertext: members.map((i) => hover(i, x, y)),
      marker: {
        color: COLOURS[choices.indexOf(choice) % COLOURS.length],
        symbol: SYMBOLS[Math.floor(choices.indexOf(choice) / COLOURS.length) % SYMBOLS.length],
        size: member ? 12 : 8, opacity: member ? 1 : 0.55, line: { width: member ? 1.5 : 0, color: ink },
      },
    });
    const byChoice = new Map(choices.map((choice) => [choice, { on: [], off: [] }]));
    for (const i of shown) byChoice.get(made[i])[on.has(i) ? "on" : "off"].push(i);
    const off = [], above = []; // members of the frontier are drawn above the others
    for (const [choice, members] of byChoice) {
      if (members.off.length) off.push({ ...points(choice, members.off, false), showlegend: !members.on.length });
      if (members.on.length) above.push(points(choice, members.on, true));
    }
    traces.push(...off, ...above);
    const narrow = plot.clientWidth < 560;
    const scale = (key, name) => ({
      title: { text: wrapped(axisTitle(section, key), narrow ? 34 : 80), standoff: 12 },
      type: logs[name].checked ? "log" : "linear", gridcolor: line, linecolor: line, zeroline: false,
      automargin: true, exponentformat: "SI", minexponent: 2, dtick: undefined, nticks: narrow ? 5 : 0,
    });
    const layout = {
      paper_bgcolor: surface, plot_bgcolor: surface,
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 13, color: ink },
      margin: { l: 60, r: 16, t: 36, b: 50 }, hovermode: "closest", showlegend: true,
      hoverlabel: { align: "left", bgcolor: surface, bordercolor: line, font: { color: ink } },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemsizing: "constant" },
      xaxis: scale(x, "x"), yaxis: scale(y, "y"),
    };
    Plotly.react(plot, traces, layout, { responsive: true, displaylogo: false,
      displayModeBar: !narrow, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] });
    if (!listening) {
      listening = true;
      plot.on("plotly_click", (event) => {
        const point = event.points[0];
        if (point.data.customdata) show(number, point.data.customdata[point.pointIndex]);
      });
    }
    const ranked = xs.filter((_, i) => xs[i] !== null && ys[i] !== null).length;
    const lacking = xs.length - ranked, hidden = ranked - shown.length;
    status.textContent = `${on.size} of ${ranked} configurations are on the frontier of these two axes.`
      + (lacking ? ` ${lacking} lack${lacking === 1 ? "s" : ""} a value.` : "") + (hidden ? ` ${hidden} at or below zero do not fit a log axis.` : "");
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

/** All that is known of one configuration, below the plot. */
function show(number, i) {
  const section = sections[number];
  const panel = document.querySelector(`[data-details="${number}"]`);
  const close = element("button", "✕", { type: "button", class: "close", "aria-label": "Close" });
  close.addEventListener("click", () => { panel.hidden = true; });
  const values = element("dl", undefined, { class: "values" });
  for (const [key, { unit }] of Object.entries(section.keys)) {
    if (section.values[key][i] === null) continue;
    const row = element("div");
    row.append(element("dt", key.replace(/[/_]/g, "$&\u200b")), element("dd", human(unit, section.values[key][i], (section.halfWidths[key] || {})[i])));
    values.append(row);
  }
  const lines = [`config ${section.hashes[i]}, seeds ${section.seeds[i].join(", ")}`, section.machines[i], ...section.folders[i]];
  panel.replaceChildren(close, element("h3", section.labels[i]));
  if (section.overrides[i]) panel.append(element("code", section.overrides[i]));
  for (const line of lines.filter(Boolean)) panel.append(element("div", line, { class: "dim" }));
  panel.append(values);
  panel.hidden = false;
  panel.focus({ preventScroll: true });
  panel.scrollIntoView({ block: "nearest" });
}

function sortBy(header) {
  const table = header.closest("table"), column = header.cellIndex, body = table.tBodies[0];
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const value = (row) => row.cells[column].dataset.value;
  const compare = (a, b) => {
    if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === ""); // unknown comes last
    const difference = column ? value(a) - value(b) : value(a).localeCompare(value(b));
    return ascending ? difference : -difference;
  };
  body.append(...[...body.rows].sort(compare));
}

for (const header of document.querySelectorAll("table.sortable thead th")) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}
for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => show(...button.dataset.show.split(":").map(Number)));
}
sections.forEach(setUp);
