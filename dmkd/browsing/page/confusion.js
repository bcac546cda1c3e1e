// Which class the teacher takes for which. Each number opens the images behind it.

import { useAnswer } from "./asking.js";
import { html } from "./vendor/preact.js";
import { className, count, numberedClass, percent } from "./words.js";

export function ConfusionView({ store, state, ...others }) {
  if (state.judge === null) return html`<p class="empty">The store has no labels: run <code>dmkd label</code> first.</p>`;
  const names = Object.keys(store.label_sets);
  return html`<div class="scrolls" tabindex="0" role="region" aria-label="Confusion">
    <div class="toolbar">
      <label>Teacher
        <select value=${state.judge} onChange=${(event) => others.change({ judge: event.target.value })}>
          ${names.map((name) => html`<option value=${name}>${name}</option>`)}
        </select>
      </label>
      ${names.length > 1 && html`<label>beside
        <select value=${state.versus ?? ""} onChange=${(event) => others.change({ versus: event.target.value || null })}>
          <option value="">–</option>
          ${names.filter((name) => name !== state.judge).map((name) => html`<option value=${name}>${name}</option>`)}
        </select>
      </label>`}
    </div>
    <div class="besides">
      ${[state.judge, state.versus].filter(Boolean).map((judge) => html`<${OfTeacher} key=${judge} store=${store} judge=${judge} ...${others} />`)}
    </div>
  </div>`;
}

function OfTeacher({ server, store, judge, query, now, change }) {
  const { found, error } = useAnswer(server, "confusion", { ...query, judge, versus: null, pair: null }, now.version);
  if (error) return html`<p class="problem" role="alert">${error}</p>`;
  if (!found) return html`<p class="quiet">…</p>`;
  const show = (asked, seen) => change({ tab: "images", judge, versus: null, classes: [asked], seen, agree: null, pair: null });
  const most = Math.max(1, ...found.counts.flatMap((row, i) => row.filter((_, j) => i !== j)));
  const shade = (n, right) => ({ "--share": right ? 0 : Math.sqrt(n / most) });
  return html`<section>
    <h2>${judge} <span class="quiet">sees another class in ${count(found.wrong)} of ${count(found.labelled)} images${found.labelled > 0 && ` (${percent(found.wrong / found.labelled)})`}</span></h2>
    <p class="quiet">Rows: the class asked for. Columns: the class seen.${found.others.some(Boolean) && " The classes that are confused most."}</p>
    <table class="confusion" aria-label=${`What ${judge} sees`}>
      <thead><tr><td></td>
        ${found.classes.map((one) => html`<th scope="col"><span title=${className(store, one)}>${className(store, one)}</span></th>`)}
        ${found.others.some(Boolean) && html`<th scope="col"><span>others</span></th>`}
      </tr></thead>
      <tbody>
        ${found.classes.map((row, i) => html`<tr>
          <th scope="row"><span title=${className(store, row)}>${className(store, row)}</span></th>
          ${found.classes.map((column, j) => {
            const n = found.counts[i][j];
            return html`<td class=${i === j ? "right" : ""} style=${shade(n, i === j)}>${n > 0 && html`<button type="button"
              aria-label=${`${n} images of ${className(store, row)} seen as ${className(store, column)}`} onClick=${() => show(row, column)}>${n}</button>`}</td>`;
          })}
          ${found.others.some(Boolean) && html`<td>${found.others[i] || ""}</td>`}
        </tr>`)}
      </tbody>
    </table>
    ${found.pairs.length > 0 && html`<details open=${found.others.some(Boolean)}>
      <summary>The largest confusions</summary>
      <ol class="pairs">
        ${found.pairs.map(([asked, seen, n]) => html`<li><button type="button" class="link" onClick=${() => show(asked, seen)}>${numberedClass(store, asked)} → ${numberedClass(store, seen)}</button> ${count(n)}</li>`)}
      </ol>
    </details>`}
  </section>`;
}
