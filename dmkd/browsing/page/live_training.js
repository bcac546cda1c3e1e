// Training runs: their curves in one chart each, and a table that says which runs these show.

import { useAnswer } from "./asking.js";
import { LineChart, colorClass, line } from "./charts.js";
import { ago, duration, rate } from "./live_words.js";
import { Badge } from "./live_runs.js";
import { html, useRef, useState } from "./vendor/preact.js";
import { count, percent, short } from "./words.js";

const tenth = (value) => `${Number((100 * value).toFixed(1))} %`;
const CHARTS = [
  ["by_epoch", "epoch", "loss", "Loss"],
  ["by_epoch", "epoch", "top1", "Top-1 on real images", tenth],
  ["by_epoch", "epoch", "agreement", "Agreement with the teacher", tenth],
  ["by_step", "images", "loss", "Loss, step by step"],
  ["by_step", "images", "images_per_second", "Images a second"],
  ["by_step", "images", "lr", "Learning rate"],
];
const millions = (value) => (value >= 1e6 ? `${Number((value / 1e6).toPrecision(4))} M` : value >= 1e3 ? `${Number((value / 1e3).toPrecision(4))} k` : String(value));

// Each run keeps its colour while it is shown; a new one gets the first that is free.
function useColors(runs) {
  const colors = useRef(new Map());
  const shown = new Set(runs.map((run) => run.id));
  for (const id of [...colors.current.keys()]) if (!shown.has(id)) colors.current.delete(id);
  for (const id of shown) {
    if (colors.current.has(id)) continue;
    const taken = new Set(colors.current.values());
    let free = 0;
    while (taken.has(free)) free += 1;
    colors.current.set(id, free);
  }
  return colors.current;
}

export function Training({ server, store, tick }) {
  const [chosen, setChosen] = useState(null); // ids; null: the newest
  const { found, error } = useAnswer(server, "training", { open: chosen === null ? null : ["-", ...chosen].join(",") }, tick);
  const shown = (found ?? []).filter((run) => run.by_epoch !== null && (chosen === null || chosen.has(run.id)));
  const colors = useColors(shown);
  const toggle = (id) => setChosen(() => {
    const after = new Set(chosen ?? shown.map((run) => run.id));
    if (!after.delete(id)) after.add(id);
    return after;
  });
  if (!found) return error ? html`<p class="problem" role="alert">${error}</p>` : html`<p class="quiet">…</p>`;
  if (found.length === 0) return html`<p class="quiet">No training run in <code>students</code>, here or beside the store. Others are shown by <code>dmkd browse --run FOLDER</code>.</p>`;
  const drawn = CHARTS.map(([curves, across, key, title, format]) => ({
    title, across, format,
    lines: shown.map((run) => line(run.name, colors.get(run.id), (run[curves][across] ?? []).map((x, i) => [x, run[curves][key]?.[i] ?? null]))).filter((one) => one.points.some(([x, y]) => x !== null && y !== null)),
  })).filter((chart) => chart.lines.length);
  return html`
    ${error && html`<p class="problem" role="alert">${error}</p>`}
    <div class="tablebox" tabindex="0" role="region" aria-label="Training runs">
      <table class="listed training">
        <thead><tr><th scope="col">Run</th><th scope="col">State</th><th scope="col">Epoch</th><th scope="col">Images</th><th scope="col">Loss</th><th scope="col">Top-1</th><th scope="col">Images a second</th><th scope="col">To go</th><th scope="col">Student</th><th scope="col">Store</th></tr></thead>
        <tbody>${found.map((run) => html`<${Row} key=${run.id} run=${run} store=${store} color=${colors.get(run.id)} isWanted=${chosen?.has(run.id) ?? colors.has(run.id)} onToggle=${() => toggle(run.id)} />`)}</tbody>
      </table>
    </div>
    <div class="charts">${drawn.map(({ title, across, format, lines }) => html`<${LineChart} key=${title} title=${title} across=${across} lines=${lines} formatX=${across === "images" ? millions : undefined} wholeX=${across === "epoch"} formatY=${format} />`)}</div>
  `;
}

const last = (values) => (values ?? []).findLast((value) => value !== null) ?? null;

// `isWanted`: whether its curves are to be shown, as they are once they have come; then it has a color.
function Row({ run, store, color, isWanted, onToggle }) {
  const whole = run.total_images ?? 0;
  return html`<tr>
    <th scope="row"><label class="choice" title=${run.folder}><input type="checkbox" checked=${isWanted} onChange=${onToggle} />${color !== undefined && html`<span class=${`swatch ${colorClass(color)}`}></span>`}<span>${run.name}</span></label></th>
    <td><${Badge} state=${run.state} reason=${run.reason} />${run.state === "stopped" && run.saved !== null && html` <span class="quiet">${ago(run.saved)}</span>`}</td>
    <td>${short(run.epoch)}${run.epochs !== null && ` of ${short(run.epochs)}`}</td>
    <td>${run.images === null ? "–" : html`${whole > 0 && html`<progress max=${whole} value=${run.images} aria-label=${`Images of ${run.name}`}></progress> `}${count(run.images)}`}</td>
    <td>${short(run.by_step ? (last(run.by_step.loss) ?? last(run.by_epoch.loss)) : null)}</td>
    <td>${percent(run.top1)}</td>
    <td>${rate(run.images_per_second)}</td>
    <td>${run.state === "running" ? duration(run.eta) : ""}</td>
    <td>${run.student}</td>
    <td title=${run.store.path}>${run.store.identity === store.identity ? "this one" : run.store.path.split("/").filter(Boolean).pop()}</td>
  </tr>`;
}
