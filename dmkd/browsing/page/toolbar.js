// Above the grid: whose opinion, in which order, how large; and what was picked.

import { html } from "./vendor/preact.js";
import { count } from "./words.js";

const SORTS = { __proto__: null, image_id: "number", class_id: "class", p_class: "p(class)", entropy: "entropy", top1: "class seen", gap: "how far two teachers are apart", random: "random" };

// Another teacher; if it was the second one, the two change places.
const judgedBy = (judge, state) => ({ judge, versus: judge === state.versus ? state.judge : state.versus });

export function Toolbar({ store, state, change, answer, picked, clear, onSave }) {
  const names = Object.keys(store.label_sets);
  const sorts = ["image_id", "class_id", ...(state.judge ? ["p_class", "entropy", "top1"] : []), ...(state.versus ? ["gap"] : []), "random", ...Object.keys(store.columns)];
  return html`<div class="toolbar" role="toolbar" aria-label="Order and size">
    ${names.length > 0 && html`<label>Teacher
      <select value=${state.judge} onChange=${(event) => change(judgedBy(event.target.value, state))}>
        ${names.map((name) => html`<option value=${name}>${name}</option>`)}
      </select>
    </label>`}
    ${state.tab === "teachers" && state.versus && html`<label>and
      <select aria-label="Second teacher" value=${state.versus} onChange=${(event) => change({ versus: event.target.value })}>
        ${names.filter((name) => name !== state.judge).map((name) => html`<option value=${name}>${name}</option>`)}
      </select>
    </label>`}
    <label>Sort by
      <select value=${state.sort} onChange=${(event) => change({ sort: event.target.value })}>
        ${sorts.map((name) => html`<option value=${name}>${SORTS[name] ?? name}</option>`)}
      </select>
    </label>
    <button type="button" aria-pressed=${state.down} aria-label="Largest first" title="Largest first" onClick=${() => change({ sort: state.sort, down: !state.down })}>${state.down ? "↓" : "↑"}</button>
    <label>Size
      <input type="range" min="32" max="256" step="8" value=${state.size} onInput=${(event) => change({ size: Number(event.target.value) })} />
    </label>
    <span class="space"></span>
    ${picked.size > 0 && html`<span role="status">${count(picked.size)} picked</span> <button type="button" onClick=${clear}>Clear</button>`}
    <button type="button" disabled=${(answer.error || !answer.found?.count) && !picked.size} onClick=${onSave}>Save selection …</button>
  </div>`;
}
