// Small line charts, drawn by hand: with a sentence for who does not see them, and a table of their numbers.

import { useSize } from "./asking.js";
import { html, useRef, useState } from "./vendor/preact.js";

const HEIGHT = 150;
const LEFT = 46;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 20;
const ROWS = 200; // of a table at most

const plainly = (value) => String(Number(value.toPrecision(3)));

export const colorClass = (number) => `color${number % 8}`;
// Beyond eight colours lines differ by their dashes.
const dashes = (number) => ["", "7 3", "2 3"][Math.floor(number / 8) % 3];

// Round numbers between two numbers, at most `most` and seldom fewer than half of that, `apart` or more from each other.
function ticks(low, high, most, apart = 0) {
  const rough = Math.max(apart, (high - low) / most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

// `lines`: {name, color, points: [[x, y], ...]}, x ascending; what is null is left out. `fromZero`: whether y begins there;
// `wholeX`: whether x counts something.
export function LineChart({ title, legend, across, lines, formatX = plainly, formatY = plainly, fromZero = false, wholeX = false }) {
  const box = useRef(null);
  const [width] = useSize(box);
  const [at, setAt] = useState(null);
  const known = lines.map((line) => ({ ...line, points: line.points.filter(([x, y]) => x !== null && y !== null) })).filter((line) => line.points.length);
  const points = known.flatMap((line) => line.points);
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [left, right] = spread(Math.min(...xs), Math.max(...xs));
  const [low, high] = spread(fromZero ? 0 : Math.min(...ys), Math.max(...ys));
  const span = Math.max(50, width - LEFT - RIGHT);
  const px = (x) => LEFT + (span * (x - left)) / (right - left);
  const py = (y) => TOP + ((HEIGHT - TOP - BOTTOM) * (high - y)) / (high - low);
  const path = (line) => line.points.map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");
  const move = (event) => {
    const place = event.clientX - box.current.getBoundingClientRect().left;
    setAt(left + ((right - left) * (place - LEFT)) / span);
  };
  const near = at === null ? [] : known.map((line) => ({ line, point: line.points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a)) }));
  return html`<figure class="chart">
    <figcaption>${title} <span class="quiet" aria-hidden="true">${legend} ${near.length > 0 && `at ${formatX(near[0].point[0])}: ${near.slice(0, 4).map(({ line, point }) => (known.length > 1 ? `${line.name} ${formatY(point[1])}` : formatY(point[1]))).join(", ")}${near.length > 4 ? " …" : ""}`}</span></figcaption>
    <div ref=${box} class="drawn" onPointerMove=${move} onPointerLeave=${() => setAt(null)}>
      ${known.length > 0 && width > 0 && html`<svg width=${width} height=${HEIGHT} role="img" aria-label=${inWords(title, across, known, formatX, formatY)}>
        ${ticks(low, high, 5).map((y) => html`<g key=${`y${y}`}><path class="rule" d=${`M${LEFT} ${py(y)}H${width - RIGHT}`} /><text x=${LEFT - 6} y=${py(y) + 4} text-anchor="end">${formatY(y)}</text></g>`)}
        ${ticks(left, right, Math.max(2, Math.min(8, span / 60)), wholeX ? 1 : 0).map((x) => html`<text key=${`x${x}`} x=${px(x)} y=${HEIGHT - 5} text-anchor="middle">${formatX(x)}</text>`)}
        ${known.map((line) => line.points.length > 1
          ? html`<path key=${line.name} class=${`line ${line.color}`} stroke-dasharray=${line.dashes} d=${path(line)} />`
          : html`<circle key=${line.name} class=${`dot ${line.color}`} cx=${px(line.points[0][0])} cy=${py(line.points[0][1])} r="3" />`)}
        ${near.map(({ line, point }) => html`<circle key=${`near ${line.name}`} class=${`dot ${line.color}`} cx=${px(point[0])} cy=${py(point[1])} r="3" />`)}
      </svg>`}
    </div>
    <${Numbers} title=${title} across=${across} lines=${known} formatX=${formatX} formatY=${formatY} />
  </figure>`;
}

export const line = (name, number, points) => ({ name, color: colorClass(number), dashes: dashes(number), points });

const spread = (low, high) => (low === high ? [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10] : [low, high]);

function inWords(title, across, lines, formatX, formatY) {
  const parts = lines.slice(0, 8).map(({ name, points }) => {
    const values = points.map(([, y]) => y);
    const [first, last] = [points[0], points[points.length - 1]];
    return `${name} from ${formatY(first[1])} at ${formatX(first[0])} to ${formatY(last[1])} at ${formatX(last[0])}, between ${formatY(Math.min(...values))} and ${formatY(Math.max(...values))}`;
  });
  return `${title} by ${across}: ${parts.join("; ")}${lines.length > 8 ? `; and ${lines.length - 8} more` : ""}.`;
}

// Made only when it is opened.
function Numbers({ title, across, lines, formatX, formatY }) {
  const [open, setOpen] = useState(false);
  return html`<details class="numbers" open=${open} onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary><span class="hidden">${title}: </span>Numbers</summary>
    ${open && html`<${NumbersTable} across=${across} lines=${lines} formatX=${formatX} formatY=${formatY} title=${title} />`}
  </details>`;
}

function NumbersTable({ title, across, lines, formatX, formatY }) {
  const rows = new Map();
  lines.forEach((one, number) => one.points.forEach(([x, y]) => {
    if (!rows.has(x)) rows.set(x, []);
    rows.get(x)[number] = y;
  }));
  const shown = [...rows].sort(([a], [b]) => b - a).slice(0, ROWS);
  return html`<div class="tablebox" tabindex="0" role="region" aria-label=${`${title}, numbers`}>
    <table class="listed">
      <thead><tr><th scope="col">${across}</th>${lines.map((one) => html`<th scope="col">${one.name}</th>`)}</tr></thead>
      <tbody>${shown.map(([x, values]) => html`<tr key=${x}><th scope="row">${formatX(x)}</th>${lines.map((_, number) => html`<td>${values[number] === undefined ? "" : formatY(values[number])}</td>`)}</tr>`)}</tbody>
    </table>
  </div>`;
}
