// Two teachers, or a teacher and a student that labelled the store too: where they differ.

import { useAnswer } from "./asking.js";
import { Grid } from "./grid.js";
import { html, useEffect } from "./vendor/preact.js";
import { count, percent } from "./words.js";

const TITLES = {
  differ: "see different classes",
  both: "both right",
  first: "only the first right",
  second: "only the second right",
  neither: "neither right",
};

export function TeachersView({ server, store, state, change, query, answer, now, picked, pick, open }) {
  const names = Object.keys(store.label_sets);
  const known = state.versus !== null;
  const { found, error } = useAnswer(server, "pairs", known ? { ...query, pair: null } : null, now.version);
  // The images on which they differ most come first, until another order is chosen.
  useEffect(() => {
    if (known && state.sort === "image_id") change({ sort: "gap", down: true });
  }, [known]);
  if (!known) return html`<p class="empty">This takes two label sets: label the store by another teacher, or by a student: <code>dmkd label --teacher students/first</code>.</p>`;
  return html`<div class="twoteachers">
    <div class="toolbar">
      <label>First
        <select value=${state.judge} onChange=${(event) => change({ judge: event.target.value, versus: event.target.value === state.versus ? state.judge : state.versus })}>
          ${names.map((name) => html`<option value=${name}>${name}</option>`)}
        </select>
      </label>
      <label>second
        <select value=${state.versus} onChange=${(event) => change({ versus: event.target.value })}>
          ${names.filter((name) => name !== state.judge).map((name) => html`<option value=${name}>${name}</option>`)}
        </select>
      </label>
      ${error && html`<span class="problem" role="alert">${error}</span>`}
    </div>
    ${found && html`<div class="choices" role="group" aria-label="Which images">
      <button type="button" aria-pressed=${state.pair === null} onClick=${() => change({ pair: null })}>all</button>
      ${found.pairs.map((name) => html`<button type="button" aria-pressed=${state.pair === name} onClick=${() => change({ pair: name })}>
        ${TITLES[name]} <b>${count(found.counts[name])}</b>${found.counts.labelled > 0 && html` <span class="quiet">${percent(found.counts[name] / found.counts.labelled)}</span>`}
      </button>`)}
    </div>`}
    <${Grid} server=${server} store=${store} query=${query} count=${answer.found?.count ?? 0} version=${now.version} size=${state.size} picked=${picked} onPick=${pick} onOpen=${open} />
  </div>`;
}
