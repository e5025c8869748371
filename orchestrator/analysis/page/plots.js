// Figures: data and axes come from Python or, for slices, from the rows of the trials; colours are chosen here, because
// only the browser knows whether the page is light or dark. A figure is drawn when it comes near to the window.
const darkness = matchMedia("(prefers-color-scheme: dark)");
const hidden = new Set();  // methods
let look = {};  // the page's colours and its font, read once: asking makes the browser lay out what was just drawn
function see() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "muted", "rule", "paper", "raised", "sans"]) look[name] = style.getPropertyValue(`--${name}`).trim();
}

function paint(trace) {
  const { owner } = trace.meta;
  if (!owner) return { ...trace, line: { ...trace.line, color: look.muted } };
  const own = data.looks[owner], color = own[darkness.matches ? "dark" : "light"];
  const outline = trace.marker.symbol ? color : look.ink;
  return {
    ...trace,
    visible: !hidden.has(owner),
    line: { ...trace.line, color },
    marker: { symbol: own.symbol, ...trace.marker, color, line: { ...trace.marker.line, color: outline } },
  };
}

// The name of a baseline, where Python found room for it.
function named({ x, y, text, wide, narrow }, isNarrow) {
  const [xshift, yshift] = isNarrow ? narrow : wide;
  const font = { color: look.ink, size: 12, shadow: Array(6).fill(`0 0 2px ${look.paper}`).join() };
  return { x, y, text, xshift, yshift, font, showarrow: false, xanchor: "center", yanchor: "middle" };
}

// An objective over a setting. A trial that diverged has a cross at the worse end, where its score would be.
function slice({ set, setting, objective }) {
  const { columns, rows, owners } = data.trials;
  const group = data.slices[set], { range, title, worse } = group.objectives[objective];
  const x = columns.findIndex((column) => column.name === group.settings[setting].name && column.kind === "setting");
  const y = 2 + objective, traces = new Map();
  rows.forEach((row, place) => {
    const [owner, name] = owners[place], diverged = row[1] === "diverged";
    if (name !== group.name || row[x] === null || !(diverged || (row[1] === "complete" && typeof row[y] === "number"))) return;
    const key = `${owner} ${diverged}`;
    if (!traces.has(key)) {
      const marker = diverged ? { symbol: "x-thin", size: 7, opacity: 0.8, line: { width: 1.5 } } : { size: 7, opacity: 0.75, line: { width: 0 } };
      traces.set(key, { type: "scatter", mode: "markers", x: [], y: [], hovertext: [], hoverinfo: "text", cliponaxis: false, marker, meta: { owner } });
    }
    const trace = traces.get(key), said = diverged ? "diverged" : `${escaped(columns[y].title)}: ${score(row[y])}`;
    trace.x.push(typeof row[x] === "boolean" ? String(row[x]) : row[x]);
    trace.y.push(diverged ? worse : row[y]);
    trace.hovertext.push(`<b>${escaped(row[0].slice(0, 60))}</b><br>${escaped(columns[x].title)}: ${escaped(number(row[x]).slice(0, 60))}<br>${said}`);
  });
  const axis = group.settings[setting].axis;
  return {
    data: [...traces.values()],
    layout: { xaxis: { title: { text: escaped(columns[x].title) }, type: axis, ...(axis === "log" ? { dtick: "D2", exponentformat: "power" } : {}) }, yaxis: { title: { text: title }, range } },
  };
}

function draw(place) {
  const figure = place.dataset.slice ? slice(JSON.parse(place.dataset.slice)) : place.dataset.figure.split("/").reduce((part, key) => part[key], data);
  const width = place.clientWidth, narrow = width < 480, small = place.closest(".panels");
  const axis = (given) => ({
    exponentformat: "e", minexponent: 4,  // as numbers.js: 0.0001 but 1e-5
    ...given, title: { ...given.title, font: { size: 12, color: look.muted }, standoff: 8 },
    gridcolor: look.rule, zeroline: false, linecolor: look.rule, tickfont: { size: 11, color: look.muted },
    automargin: given.type === "category",  // else everything is drawn twice
    ...(given.dtick ? {} : { nticks: narrow ? 5 : 8 }),
  });
  const names = figure.layout.annotations;
  const layout = {
    xaxis: axis(figure.layout.xaxis), yaxis: axis(figure.layout.yaxis),
    annotations: names?.map((name) => named(name, narrow)),
    height: narrow || small ? 320 : 420, showlegend: false, hovermode: "closest",
    margin: { l: 60, r: names && !narrow ? 40 : 16, t: 12, b: 48 },  // a name has room there; see labels.py
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: narrow ? false : "zoom",
    font: { family: look.sans, color: look.ink },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: look.muted, activecolor: look.ink },
    hoverlabel: { bgcolor: look.raised, bordercolor: look.rule, align: "left", font: { family: look.sans, color: look.ink, size: 12 } },
  };
  const config = {
    displaylogo: false, displayModeBar: narrow ? false : "hover", modeBarButtons: [["toImage", "resetScale2d"]],
  };
  Plotly.react(place, figure.data.map(paint), layout, config);
  place.dataset.drawn = width;
  performance.mark("figure drawn");
}

// One after another with a frame between, so that the first is seen before the last is drawn.
const waiting = [];
function drawNext() {
  draw(waiting[0]);
  waiting.shift();
  if (waiting.length) soon();
}
const soon = () => requestAnimationFrame(() => setTimeout(drawNext));

const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    if (waiting.push(target) === 1) soon();
  }
}, { rootMargin: "600px" });
const places = [...document.querySelectorAll(".plot")];
places.forEach((place) => near.observe(place));
// Height and behaviour follow from the width, so a figure that has another one is drawn anew, again when it comes near.
const stale = (place) => "drawn" in place.dataset && Number(place.dataset.drawn) !== place.clientWidth;
let settling;
const sized = new ResizeObserver(() => {
  clearTimeout(settling);
  settling = setTimeout(() => places.filter(stale).forEach((place) => near.observe(place)), 100);
});
places.forEach((place) => sized.observe(place));
const redraw = () => places.filter((place) => "drawn" in place.dataset).forEach(draw);
darkness.addEventListener("change", () => { see(); redraw(); });
see();
addEventListener("beforeprint", () => places.forEach(draw));
const buttons = [...document.querySelectorAll(".legend button")];  // each legend has one for each method
for (const button of buttons) {
  button.addEventListener("click", () => {
    const owner = button.dataset.owner;
    if (!hidden.delete(owner)) hidden.add(owner);
    const same = buttons.filter((other) => other.dataset.owner === owner);
    same.forEach((other) => other.setAttribute("aria-pressed", String(!hidden.has(owner))));
    redraw();
  });
}
