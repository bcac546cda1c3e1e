// The side of the page: which images. All of it comes to one rule.

import { Histogram } from "./histogram.js";
import { NO_FILTERS, isFiltered, rangeOf, ruleOf } from "./state.js";
import { PAIRS } from "./teachers.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { className, count, numberedClass, percent } from "./words.js";

const MOST_CLASSES = 200; // in the list, at once

export function Filters({ store, state, change, answer, picked }) {
  const { found, error } = answer;
  const rule = ruleOf(state);
  return html`<aside class="filters" aria-label="Which images">
    <p class="count" role="status">
      ${found ? html`<b>${count(found.count)}</b> of ${count(found.of)} images` : "…"}
      ${isFiltered(state) && html`<button type="button" class="link" onClick=${() => change(NO_FILTERS)}>all again</button>`}
    </p>
    <${RuleField} state=${state} change=${change} error=${error} />
    ${Object.keys(store.selections).length > 0 && html`<${Saved} store=${store} state=${state} change=${change} />`}
    <${Chips} store=${store} state=${state} change=${change} />
    ${rule && html`<details class="whole"><summary>The whole rule, for <code>--select</code></summary><code class="rule">${rule}</code></details>`}
    ${found?.agreement && html`<${Agreement} facts=${found.agreement} state=${state} change=${change} />`}
    ${found?.histograms.map(
      (facts) => html`<${Histogram}
        key=${facts.key}
        facts=${facts}
        range=${rangeOf(state, facts.key)}
        description=${store.columns[facts.key]}
        onRange=${(range) => {
          const { [facts.key]: _, ...others } = state.ranges;
          change({ ranges: range ? { ...others, [facts.key]: range } : others });
        }}
      />`,
    )}
    <${Classes} store=${store} state=${state} change=${change} />
    ${picked.size > 0 && html`<p><button type="button" onClick=${() => change({ ids: [...picked] })}>Show the ${count(picked.size)} picked</button></p>`}
  </aside>`;
}

function RuleField({ state, change, error }) {
  const [text, setText] = useState(state.rule);
  const field = useRef(null);
  useEffect(() => setText(state.rule), [state.rule]);
  useEffect(() => {
    const slash = (event) => {
      const page = field.current?.closest(".dmkd");
      const isHere = page?.contains(event.target) || (event.target === document.body && page?.parentElement === document.body);
      if (event.key === "/" && isHere && !/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) {
        event.preventDefault();
        field.current?.focus();
      }
    };
    document.addEventListener("keydown", slash, true);
    return () => document.removeEventListener("keydown", slash, true);
  }, []);
  const use = (event) => {
    event.preventDefault();
    change({ rule: text });
  };
  return html`<form onSubmit=${use} class="rule-field">
    <label>Rule
      <input
        ref=${field}
        type="text"
        value=${text}
        placeholder="entropy < 2.5 and agree"
        spellcheck=${false}
        autocomplete="off"
        aria-invalid=${Boolean(error)}
        aria-describedby=${error ? "dmkd-rule-error" : undefined}
        onInput=${(event) => setText(event.target.value)}
        onBlur=${use}
      />
    </label>
    ${error && html`<p class="problem" id="dmkd-rule-error" role="alert">${error}</p>`}
  </form>`;
}

function Saved({ store, state, change }) {
  return html`<label>Saved
    <select value=${Object.keys(store.selections).find((name) => state.rule === `@${name}`) ?? ""} onChange=${(event) => change({ rule: event.target.value && `@${event.target.value}` })}>
      <option value="">–</option>
      ${Object.entries(store.selections).map(([name, rule]) => html`<option value=${name} title=${rule}>@${name}</option>`)}
    </select>
  </label>`;
}

function Chips({ store, state, change }) {
  const chips = [];
  if (state.seen !== null) chips.push([`seen as ${className(store, state.seen)}`, { seen: null }]);
  for (const one of state.classes.slice(0, 12)) {
    chips.push([`class ${numberedClass(store, one)}`, { classes: state.classes.filter((other) => other !== one) }]);
  }
  if (state.classes.length > 12) chips.push([`${state.classes.length - 12} more classes`, { classes: [] }]);
  if (state.pair !== null) chips.push([PAIRS[state.pair] ?? state.pair, { pair: null }]);
  if (state.ids !== null) chips.push([`${state.ids.length} picked`, { ids: null }]);
  if (!chips.length) return null;
  return html`<ul class="chips" aria-label="Filters">
    ${chips.map(
      ([text, without]) => html`<li><button type="button" aria-label=${`Remove filter: ${text}`} onClick=${() => change(without)}>${text} <span aria-hidden="true">×</span></button></li>`,
    )}
  </ul>`;
}

function Agreement({ facts, state, change }) {
  const choices = [
    ["all", null],
    ["agrees", true],
    ["disagrees", false],
  ];
  return html`<fieldset class="agreement">
    <legend>Teacher and class <span class="quiet">${facts.labelled ? `agree on ${percent(facts.agreed / facts.labelled)}` : "no labels here yet"}</span></legend>
    <div class="choices">
      ${choices.map(
        ([text, value]) => html`<label class="choice"><input type="radio" name="dmkd-agree" checked=${state.agree === value} onChange=${() => change({ agree: value })} />${text}</label>`,
      )}
    </div>
  </fieldset>`;
}

function Classes({ store, state, change }) {
  const [text, setText] = useState("");
  const wanted = text.trim().toLowerCase();
  const found = store.class_names.flatMap((name, id) => (String(id) === wanted || name.toLowerCase().includes(wanted) ? [id] : []));
  const toggle = (id) => change({ classes: state.classes.includes(id) ? state.classes.filter((one) => one !== id) : [...state.classes, id] });
  return html`<fieldset class="classes">
    <legend>Classes</legend>
    ${store.class_names.length > 12 && html`<input type="search" aria-label="Find a class" placeholder="find a class" value=${text} onInput=${(event) => setText(event.target.value)} />`}
    <div class="list">
      ${found.slice(0, MOST_CLASSES).map(
        (id) => html`<label class="choice" key=${id}><input type="checkbox" checked=${state.classes.includes(id)} onChange=${() => toggle(id)} />${numberedClass(store, id)}</label>`,
      )}
      ${found.length > MOST_CLASSES && html`<p class="quiet">and ${count(found.length - MOST_CLASSES)} more: find them by name</p>`}
    </div>
  </fieldset>`;
}
