// Several stores side by side: the same noise and class, made in other ways.

import { useAnswer } from "./asking.js";
import { Picture, useSheet } from "./pictures.js";
import { html, useState } from "./vendor/preact.js";
import { count, numberedClass } from "./words.js";

const AT_ONCE = 40;

export function StoresView({ server, stores, store, state, change, now, open }) {
  const [shown, setShown] = useState(AT_ONCE);
  const { found, error } = useAnswer(server, "beside", { classes: state.classes.join(","), start: 0, count: shown }, now.version);
  if (error) return html`<p class="problem" role="alert">${error}</p>`;
  if (!found) return html`<p class="quiet">…</p>`;
  const words = [
    found.same_seed ? "One seed: a row is the same noise." : "The stores have different seeds: a row is the n-th image of a class in each.",
    found.same_classes ? "" : "Their classes differ: those of the first are found by name in the others.",
  ];
  return html`<div class="scrolls" tabindex="0" role="region" aria-label="Stores side by side">
    <p class="quiet">${words.join(" ")} The filter by class counts here, no other.</p>
    <table class="listed beside">
      <thead><tr><th scope="col">Class</th>${stores.map((one, number) => html`<th scope="col" title=${one.path}>${one.path.split("/").filter(Boolean).pop()}${number === state.store ? " ·" : ""}</th>`)}</tr></thead>
      <tbody>
        ${chunks(found.rows, AT_ONCE).map((rows, number) => html`<${Rows} key=${number} server=${server} stores=${stores} state=${state} rows=${rows} open=${open} change=${change} />`)}
      </tbody>
    </table>
    ${found.of > shown && html`<p><button type="button" onClick=${() => setShown(shown + AT_ONCE)}>Show ${Math.min(AT_ONCE, found.of - shown)} more of ${count(found.of - shown)}</button></p>`}
    ${found.of === 0 && html`<p class="empty">No image fits.</p>`}
  </div>`;
}

const chunks = (rows, size) => Array.from({ length: Math.ceil(rows.length / size) }, (_, i) => rows.slice(i * size, (i + 1) * size));

function Rows({ server, stores, state, rows, open, change }) {
  const sheets = stores.map((one, number) => useSheet(server, one, number, rows.map((row) => row.ids[number]).filter((id) => id !== null), state.size));
  return rows.map((row) => html`<tr key=${row.ids[0]}>
    <th scope="row">${numberedClass(stores[0], row.class_id)}</th>
    ${row.ids.map((id, number) => html`<td>${id === null ? html`<span class="quiet">none</span>` : html`<${Picture}
      store=${stores[number]}
      style=${sheets[number](id)}
      height=${state.size}
      label=${`Image ${id} of ${stores[number].path}`}
      onOpen=${() => {
        if (number !== state.store) change({ store: number, judge: null, versus: null });
        open(id);
      }} />`}</td>`)}
  </tr>`);
}
