// What goes on: the runs that make and label the store, and the students that learn from it.

import { useTicks } from "./asking.js";
import { Runs } from "./live_runs.js";
import { Training } from "./live_training.js";
import { html, useState } from "./vendor/preact.js";

const SECONDS = 3; // between two looks

export function LiveView({ server, store, state, open }) {
  const [tick, setTick] = useState(0);
  useTicks(SECONDS, () => setTick((before) => before + 1));
  return html`<div class="live">
    <h2>Making and labelling</h2>
    <${Runs} key=${state.store} server=${server} store=${store} state=${state} open=${open} tick=${tick} />
    <h2>Training</h2>
    <${Training} server=${server} store=${store} tick=${tick} />
  </div>`;
}
