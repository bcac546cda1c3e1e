// Two teachers, or a teacher and a student that labelled the store too: where they differ.

import { useAnswer } from "./asking.js";
import { Grid } from "./grid.js";
import { html } from "./vendor/preact.js";
import { count, percent } from "./words.js";

export const PAIRS = {
  __proto__: null,
  differ: "see different classes",
  both: "both right",
  first: "only the first right",
  second: "only the second right",
  neither: "neither right",
};

export function TeachersView({ server, store, state, change, query, answer, now, picked, pick, open }) {
  const known = state.versus !== null;
  const asked = query.versus === null ? null : { ...query, pair: null }; // the query was answered before the view changed
  const { found, error } = useAnswer(server, "pairs", asked, now.version);
  if (!known) return html`<p class="empty">This takes two label sets: label the store by another teacher, or by a student: <code>dmkd label --teacher students/first</code>.</p>`;
  return html`<div class="twoteachers">
    ${error && html`<p class="problem" role="alert">${error}</p>`}
    ${found && html`<div class="choices" role="group" aria-label="Which images">
      <button type="button" aria-pressed=${state.pair === null} onClick=${() => change({ pair: null })}>all</button>
      ${found.pairs.map((name) => html`<button type="button" aria-pressed=${state.pair === name} onClick=${() => change({ pair: name })}>
        ${PAIRS[name]} <b>${count(found.counts[name])}</b>${found.counts.labelled > 0 && html` <span class="quiet">${percent(found.counts[name] / found.counts.labelled)}</span>`}
      </button>`)}
    </div>`}
    <${Grid} server=${server} store=${store} query=${query} count=${answer.found?.count ?? 0} version=${now.version} size=${state.size} picked=${picked} onPick=${pick} onOpen=${open} />
  </div>`;
}
