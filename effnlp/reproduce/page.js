"use strict";

const figures = JSON.parse(document.getElementById("figures").textContent);

function colours() {
  const style = getComputedStyle(document.documentElement);
  const named = (name) => style.getPropertyValue(`--${name}`).trim();
  return { ink: named("ink"), line: named("line"), surface: named("surface") };
}

const isNarrow = (plot) => plot.clientWidth < 560;

/** Titles and names that are too long for the place are broken between words. */
function wrapped(text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1) && lines.at(-1).length + word.length + 1 > width) lines.push(word);
    else lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  return lines.join("<br>");
}

function draw(plot, { traces, legend, xaxis, yaxis }) {
  const { ink, line, surface } = colours();
  const narrow = isNarrow(plot);
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, exponentformat: "power" };
  const names = xaxis.ticktext ? { ticktext: xaxis.ticktext.map((name) => wrapped(name, narrow ? 10 : 16)) } : {};
  Plotly.react(plot, traces, {
    paper_bgcolor: surface, plot_bgcolor: surface,
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 13, color: ink },
    margin: { l: 56, r: 12, t: legend ? 40 : 12, b: 44 }, hovermode: "closest", showlegend: legend, barmode: "overlay",
    hoverlabel: { align: "left", bgcolor: surface, bordercolor: line, font: { color: ink } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", uirevision: "kept" },
    xaxis: { ...axis, ...xaxis, ...names, showgrid: !xaxis.ticktext },
    yaxis: { ...axis, ...yaxis },
  }, { displaylogo: false, displayModeBar: !narrow, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] });
}

figures.forEach((figure, number) => {
  const plot = document.getElementById(`figure-${number}`);
  let width = 0;
  const fit = () => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    draw(plot, figure);
  };
  fit();
  new ResizeObserver(fit).observe(plot);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(plot, figure));
});
