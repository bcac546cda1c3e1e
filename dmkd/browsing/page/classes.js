// A row of each class: how often the teacher agrees, and what is typical of it.

import { useAnswer } from "./asking.js";
import { Picture, useSheet } from "./pictures.js";
import { html, useMemo, useState } from "./vendor/preact.js";
import { className, count, numberedClass, percent, short } from "./words.js";

const AT_FIRST = 100; // rows; each shows two images
const HEIGHT = 48;
const HEADS = [
  ["class_id", "Class"],
  ["images", "Images"],
  ["agreement", "Teacher agrees"],
  ["p_class", "p(class)"],
  ["entropy", "Entropy"],
];

export function ClassesView({ server, store, state, change, query, now, open }) {
  const { found, error } = useAnswer(server, "classes", query, now.version);
  const [[by, down], setOrder] = useState(["class_id", false]);
  const [shown, setShown] = useState(AT_FIRST);
  const rows = useMemo(() => {
    const value = (row) => row[by] ?? Infinity;
    return [...(found ?? [])].sort((a, b) => (down ? value(b) - value(a) : value(a) - value(b)));
  }, [found, by, down]);
  const some = rows.slice(0, shown);
  const typical = useSheet(server, store, state.store, some.map((row) => row.typical), HEIGHT);
  const odd = useSheet(server, store, state.store, some.flatMap((row) => (row.odd === null ? [] : [row.odd])), HEIGHT);
  if (error) return html`<p class="problem" role="alert">${error}</p>`;
  return html`<div class="scrolls" tabindex="0" role="region" aria-label="Classes">
    <table class="listed">
      <thead><tr>
        ${HEADS.map(([name, title]) => html`<th scope="col" aria-sort=${by === name ? (down ? "descending" : "ascending") : "none"}>
          <button type="button" onClick=${() => setOrder([name, by === name && !down])}>${title} <span aria-hidden="true">${by === name ? (down ? "▼" : "▲") : ""}</span></button>
        </th>`)}
        <th scope="col">Typical</th><th scope="col">Least typical</th>
      </tr></thead>
      <tbody>
        ${some.map((row) => html`<tr key=${row.class_id}>
          <th scope="row"><button type="button" class="link" onClick=${() => change({ tab: "images", classes: [row.class_id] })}>${numberedClass(store, row.class_id)}</button></th>
          <td>${count(row.images)}</td>
          <td><span class="share"><span class="bar" style=${{ width: `${100 * (row.agreement ?? 0)}%` }}></span></span> ${percent(row.agreement)}</td>
          <td>${short(row.p_class)}</td>
          <td>${short(row.entropy)}</td>
          <td><${Picture} store=${store} style=${typical(row.typical)} height=${HEIGHT} label=${`Image ${row.typical}, typical of ${className(store, row.class_id)}`} onOpen=${() => open(row.typical)} /></td>
          <td>${row.odd !== null && html`<${Picture} store=${store} style=${odd(row.odd)} height=${HEIGHT} label=${`Image ${row.odd}, least typical of ${className(store, row.class_id)}`} onOpen=${() => open(row.odd)} />`}</td>
        </tr>`)}
      </tbody>
    </table>
    ${rows.length > shown && html`<p><button type="button" onClick=${() => setShown(shown + AT_FIRST)}>Show ${Math.min(AT_FIRST, rows.length - shown)} more of ${count(rows.length - shown)}</button></p>`}
    ${found && rows.length === 0 && html`<p class="empty">No image fits.</p>`}
  </div>`;
}
