// Values of the trials as text: as words.py writes them. A number that JSON does not know comes as text.
const missing = "–";
function number(value) {
  if (value === null) return missing;
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  const [digits, power] = value.toExponential(2).split("e").map(Number);
  return power < -4 || power >= 3 ? `${digits}e${power}` : String(Number(value.toPrecision(3)));
}
function score(value) {
  if (typeof value !== "number") return number(value);
  return value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1000) ? value.toFixed(3) : number(value);
}
function duration(seconds) {
  if (typeof seconds !== "number") return number(seconds);
  if (seconds === 0) return "0 s";
  const [, size, unit] = [[120, 1, "s"], [7200, 60, "min"], [172800, 3600, "h"], [Infinity, 86400, "days"]].find(([limit]) => seconds < limit);
  return `${(seconds / size).toFixed(unit === "days" || seconds < 10 * size ? 1 : 0)} ${unit}`;
}
const counted = (amount, noun) => `${amount.toLocaleString("en")} ${noun}${amount === 1 ? "" : "s"}`;
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
