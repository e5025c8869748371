"use strict";
(() => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const hidden = new Set();
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Colours are chosen here, because only the browser knows whether the page is light or dark.
  function paint(trace) {
    const ink = css("--ink"), owner = trace.meta.owner;
    if (!owner) return { ...trace, line: { ...trace.line, color: css("--muted") } };
    const color = plots.colors[owner][darkness.matches ? "dark" : "light"];
    const outline = trace.marker.symbol ? color : ink;
    return {
      ...trace,
      visible: !hidden.has(owner),
      line: { ...trace.line, color },
      marker: { ...trace.marker, color, line: { ...trace.marker.line, color: outline } },
      textfont: { color: ink, size: 12, shadow: `0 0 3px ${css("--paper")}, 0 0 3px ${css("--paper")}` },
    };
  }

  function draw(place) {
    const figure = place.dataset.figure.split("/").reduce((part, key) => part[key], plots);
    const narrow = place.clientWidth < 480;
    const axis = (given) => ({
      ...given, title: { ...given.title, font: { size: 12, color: css("--muted") }, standoff: 8 },
      gridcolor: css("--rule"), zeroline: false, linecolor: css("--rule"), tickfont: { size: 11, color: css("--muted") },
      automargin: true, ...(given.dtick ? {} : { nticks: narrow ? 5 : 8 }),
    });
    const layout = {
      xaxis: axis(figure.layout.xaxis), yaxis: axis(figure.layout.yaxis),
      height: narrow ? 320 : 420, margin: { l: 44, r: 16, t: 12, b: 44 }, showlegend: false, hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: narrow ? false : "zoom",
      font: { family: css("--sans"), color: css("--ink") },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: css("--ink") },
      hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--rule"), align: "left", font: { family: css("--sans"), color: css("--ink"), size: 12 } },
    };
    const config = {
      responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover",
      modeBarButtons: [["toImage", "resetScale2d"]],
    };
    Plotly.react(place, figure.data.map(paint), layout, config);
  }

  const places = [...document.querySelectorAll(".plot")];
  const drawAll = () => places.forEach(draw);
  drawAll();
  darkness.addEventListener("change", drawAll);
  const buttons = [...document.querySelectorAll(".legend button")];  // each legend has one for each method
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const owner = button.dataset.owner;
      if (!hidden.delete(owner)) hidden.add(owner);
      const same = buttons.filter((other) => other.dataset.owner === owner);
      same.forEach((other) => other.setAttribute("aria-pressed", String(!hidden.has(owner))));
      drawAll();
    });
  }

  const valueOf = (row, column) => {
    const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent.trim();
    return text === "" || isNaN(text) ? text : Number(text);
  };
  function compare(a, b) {
    if (a === "" || b === "") return (a === "") - (b === "");
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => heading.addEventListener("click", () => {
      const falling = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const keyed = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
      keyed.sort(([a], [b]) => (a === "" || b === "" || !falling ? compare(a, b) : compare(b, a)));  // the empty stay last
      table.tBodies[0].append(...keyed.map(([, row]) => row));
    }));
  }
})();
