// The table of trials: filtered, sorted, a page of rows at a time; what is shown can be downloaded, all pages of it.
const pageRows = 50;
const kinds = {
  trial: (value) => value, state: (value) => value, error: (value) => value ?? "",
  score, setting: number, duration,
};

function setUpTrials(section) {
  const { columns, rows, owners } = data.trials;
  const table = section.querySelector("table"), filters = section.querySelector(".filters");
  const status = section.querySelector("[role=status]"), [before, after] = section.querySelectorAll(".pages button");
  const visible = columns.filter(({ kind }) => kind !== "download");  // the others come last
  let shown = [], first = 0, sorted = null;  // places of rows; the first on the page; column and direction

  const element = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text, className: name ?? "" });

  function cellOf(place, column) {
    const kind = columns[column].kind, value = rows[place][column], text = kinds[kind](value);
    const cell = document.createElement(kind === "trial" ? "th" : "td");
    const [method, , , task] = owners[place];
    if (kind === "trial") {
      const { light, dark, symbol } = data.looks[method], swatch = element("i", "", `swatch ${symbol}`);
      swatch.style.setProperty("--light", light);
      swatch.style.setProperty("--dark", dark);
      cell.scope = "row";
      cell.append(swatch, text);
    } else if (kind === "state") {
      cell.append(element("span", text, `state ${text}`));
      if (task && text !== "complete") cell.append(element("span", ` after task ${task}`, "muted"));
    } else if (kind === "error") {
      cell.className = "error";
      const last = text.trim().split("\n").pop();
      if (text.length > 90 || text.includes("\n")) {
        const details = document.createElement("details");
        details.append(element("summary", last.length > 80 ? `${last.slice(0, 79)}…` : last), element("pre", text));
        cell.append(details);
      } else cell.textContent = text;
    } else {
      cell.className = "num";
      cell.textContent = text;
    }
    return cell;
  }

  function show() {
    table.tBodies[0].replaceChildren(...shown.slice(first, first + pageRows).map((place) => {
      const row = document.createElement("tr");
      row.append(...visible.map((_, column) => cellOf(place, column)));
      return row;
    }));
    const last = Math.min(first + pageRows, shown.length), all = shown.length === rows.length;
    const which = shown.length > pageRows ? `${first + 1} to ${last} of ` : "";
    status.textContent = which + counted(shown.length, "trial") + (all ? "" : ` (${rows.length.toLocaleString("en")} in all)`);
    before.disabled = first === 0;
    after.disabled = last === shown.length;
  }

  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }
  function inOrder(a, b) {
    const { column, falling } = sorted;
    if (columns[column].kind === "trial") return falling ? b - a : a - b;  // as they come: by forget set, method, number
    const x = rows[a][column], y = rows[b][column];
    if (x === null || y === null) return (x === null) - (y === null);  // the empty stay last
    return falling ? compare(y, x) : compare(x, y);
  }
  function arrange() {
    const wanted = Object.fromEntries(new FormData(filters));
    const fits = (place) => (!wanted.method || owners[place][0] === wanted.method)
      && (!wanted.set || owners[place][1] === wanted.set) && (!wanted.state || rows[place][1] === wanted.state);
    shown = rows.map((_, place) => place).filter(fits);
    if (sorted) shown.sort(inOrder);
    first = 0;
    show();
  }

  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    sorted = { column, falling: heading.getAttribute("aria-sort") === "ascending" };
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", sorted.falling ? "descending" : "ascending");
    arrange();
  }));
  filters.addEventListener("change", arrange);
  const turn = (by) => { first += by; show(); };
  before.addEventListener("click", () => turn(-pageRows));
  after.addEventListener("click", () => turn(pageRows));
  setUpDownloads(section, "trials", () => shown);
  arrange();
}

// `which` of the tables in `data`, and the places of its rows to write.
function setUpDownloads(section, which, places) {
  const write = (ending, type, text) => section.querySelector(`[data-download=${ending}]`)
    .addEventListener("click", () => download(`${data.name}-${which}.${ending}`, type, text(data[which], places())));
  write("csv", "text/csv", asCsv);
  write("json", "application/json", asJson);
}
const identity = ["method", "forget_set", "number"];
function asCsv({ columns, rows, owners }, shown) {
  const lines = shown.map((place) => [rows[place][0], ...owners[place].slice(0, 3), ...rows[place].slice(1)]);
  const [trial, ...others] = columns.map((column) => column.name);
  return [[trial, ...identity, ...others], ...lines].map((line) => line.map(csvField).join(",")).join("\r\n") + "\r\n";
}
// A spreadsheet takes a text that begins like this for a formula, and runs it.
const formula = /^[=+\-@\t\r\n＝＋－＠]/;
function csvField(value) {
  if (value === null) return "";
  if (typeof value !== "string") return String(value);
  const text = formula.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}
function asJson({ columns, rows, owners }, shown) {
  const names = columns.map((column) => column.name);
  return JSON.stringify(shown.map((place) => ({
    ...Object.fromEntries(identity.map((name, part) => [name, owners[place][part]])),
    ...Object.fromEntries(names.map((name, part) => [name, rows[place][part]])),
  })), null, 1) + "\n";
}
function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

setUpTrials(document.getElementById("trials"));
document.querySelectorAll("[data-whole]").forEach((section) => {
  const which = section.dataset.whole;
  setUpDownloads(section, which, () => data[which].rows.map((_, place) => place));
});

