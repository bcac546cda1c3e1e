// A histogram that filters: drag over it, or give its limits as numbers.

import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { short } from "./words.js";

const WIDTH = 240;
const HEIGHT = 44;
const TITLES = { __proto__: null, p_class: "p(class)", entropy: "entropy, nats" };

export function Histogram({ facts, range, description, onRange }) {
  const box = useRef(null);
  const [drag, setDrag] = useState(null); // where it began and is, as shares of the width
  const { key, low, high, all, chosen } = facts;
  const [from, to] = range ?? [null, null];
  const span = high - low || 1;
  // What stands out is seen beside the tallest bin, and so are the small ones: heights go by the square root.
  const tallest = Math.sqrt(Math.max(1, ...all));
  const bar = (counts) =>
    counts.map((n, i) => {
      const h = (HEIGHT * Math.sqrt(n)) / tallest;
      return n ? `M${(i * WIDTH) / counts.length} ${HEIGHT}v${-h}h${WIDTH / counts.length - 1}v${h}z` : "";
    }).join("");
  const share = (event) => {
    const { left, width } = box.current.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - left) / width));
  };
  // A limit at the very end is none: rounding must not cut off the outermost image.
  const limits = (a, b) => {
    const [begin, end] = [Math.min(a, b), Math.max(a, b)];
    if (end - begin < 0.01) return null;
    return [begin <= 0.002 ? null : low + begin * span, end >= 0.998 ? null : low + end * span];
  };
  const finish = () => {
    if (!drag) return;
    const found = limits(...drag);
    setDrag(null);
    onRange(found && found[0] === null && found[1] === null ? null : found);
  };
  const [a, b] = drag ?? [from === null ? 0 : (from - low) / span, to === null ? 1 : (to - low) / span];
  const use = (next) => onRange(next[0] === null && next[1] === null ? null : next);
  const title = TITLES[key] ?? key;
  return html`<fieldset class="histogram">
    <legend title=${description}>${title} ${facts.mean !== null && html`<span class="quiet">mean ${short(facts.mean)}</span>`}</legend>
    <svg
      ref=${box}
      viewBox=${`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      aria-hidden="true"
      onPointerDown=${(event) => {
        event.currentTarget.setPointerCapture(event.pointerId);
        setDrag([share(event), share(event)]);
      }}
      onPointerMove=${(event) => drag && setDrag([drag[0], share(event)])}
      onPointerUp=${finish}
      onPointerCancel=${() => setDrag(null)}
    >
      <path class="all" d=${bar(all)} />
      <path class="chosen" d=${bar(chosen)} />
      ${(range || drag) && html`<rect class="brush" x=${WIDTH * Math.min(a, b)} width=${WIDTH * Math.abs(b - a)} y="0" height=${HEIGHT} />`}
    </svg>
    <div class="limits">
      <${Limit} label=${`${title} from`} none=${short(low)} value=${from} onValue=${(value) => use([value, to])} />
      <span class="quiet">to</span>
      <${Limit} label=${`${title} to`} none=${short(high)} value=${to} onValue=${(value) => use([from, value])} />
    </div>
  </fieldset>`;
}

// A number, or none. What is being typed stays, whatever else changes.
function Limit({ label, none, value, onValue }) {
  const shown = value === null ? "" : short(value);
  const [text, setText] = useState(shown);
  useEffect(() => setText(shown), [shown]);
  const typed = (event) => {
    const found = event.target.value.trim();
    const next = found === "" || !Number.isFinite(Number(found)) ? null : Number(found);
    setText(next === null ? "" : short(next));
    onValue(next);
  };
  return html`<input type="text" inputmode="decimal" aria-label=${label} placeholder=${none} value=${text}
    onInput=${(event) => setText(event.target.value)} onChange=${typed} />`;
}
