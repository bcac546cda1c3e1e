// The page: what is looked at, and the views of it.

import { useAnswer, useTicks } from "./asking.js";
import { ClassesView } from "./classes.js";
import { ConfusionView } from "./confusion.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { ImageDialog } from "./image.js";
import { LiveView } from "./live.js";
import { SaveDialog } from "./saving.js";
import { START, TABS, fromHash, isOneStep, queryOf, toHash } from "./state.js";
import { StoresView } from "./stores.js";
import { TeachersView } from "./teachers.js";
import { Toolbar } from "./toolbar.js";
import { html, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/preact.js";
import { count, images } from "./words.js";

const SECONDS = 2; // between two looks at what has changed

// The state, kept in the page's address unless the page is part of another.
function useKept(inPage) {
  const [state, setState] = useState(() => (inPage ? fromHash(location.hash) : { ...START }));
  const written = useRef(inPage ? location.hash : "");
  const kept = useRef(state);
  useEffect(() => {
    if (!inPage) return;
    const moved = () => {
      if (location.hash !== written.current) {
        written.current = location.hash;
        setState(fromHash(location.hash));
      }
    };
    window.addEventListener("hashchange", moved);
    return () => window.removeEventListener("hashchange", moved);
  }, []);
  useLayoutEffect(() => { // at once, before another address can come
    if (!inPage) return;
    const hash = toHash(state);
    const now = hash ? `#${hash}` : "";
    if (now !== written.current) {
      written.current = now;
      const keep = isOneStep(kept.current, state) ? "replaceState" : "pushState";
      history[keep](null, "", now || location.pathname + location.search);
    }
    kept.current = state;
  }, [state]);
  const change = useCallback((some) => setState((before) => ({ ...before, ...some })), []);
  return [state, change];
}

export function App({ server, inPage }) {
  const [asked, change] = useKept(inPage);
  const [status, setStatus] = useState(null);
  const [lost, setLost] = useState(null);
  useTicks(SECONDS, () => server.ask("status").then(
    (found) => {
      setStatus(found);
      setLost(null);
    },
    (error) => setLost(error.message),
  ));
  const sets = JSON.stringify(status?.map((one) => [one.sets, one.num_images]));
  const { found: stores, error } = useAnswer(server, "stores", status === null ? null : {}, sets);
  if (error || !stores || !status) {
    return html`<p class="opening" role="status">${error ?? lost ?? "Opening …"}</p>`;
  }
  return html`<${Opened} server=${server} stores=${stores} status=${status} lost=${lost} asked=${asked} change=${change} inPage=${inPage} />`;
}

// What an address or an earlier store asked for, as this store has it.
function fitted(asked, stores) {
  const number = asked.store < stores.length ? asked.store : 0;
  const store = stores[number];
  const names = Object.keys(store.label_sets);
  const judge = names.includes(asked.judge) ? asked.judge : (names[0] ?? null);
  const others = names.filter((name) => name !== judge);
  const comparing = asked.tab === "teachers" || asked.versus !== null;
  const versus = !comparing ? null : others.includes(asked.versus) ? asked.versus : (others[0] ?? null);
  const sorts = ["image_id", "class_id", "random", ...(judge ? ["p_class", "entropy", "top1"] : []), ...(versus ? ["gap"] : []), ...Object.keys(store.columns)];
  const state = { ...asked, store: number, judge, versus, pair: versus ? asked.pair : null };
  if (sorts.includes(state.sort)) return state;
  return asked.tab === "teachers" && versus ? { ...state, sort: "gap", down: true } : { ...state, sort: "image_id", down: false };
}

function Opened({ server, stores, status, lost, asked, change, inPage }) {
  const state = fitted(asked, stores);
  const store = stores[state.store];
  const now = status[state.store];
  const [picked, setPicked] = useState(() => new Set());
  const [saving, setSaving] = useState(false);
  const [opened, setOpened] = useState(null); // the place of the image that is shown, if it came from the grid
  const wanted = useMemo(() => queryOf(state), [JSON.stringify(queryOf(state))]);
  const answer = useAnswer(server, "query", wanted, now.version);
  // The last that was answered: a rule that can't be read leaves in sight what there was.
  const query = answer.of?.store === state.store ? answer.of : null;
  useEffect(() => setPicked(new Set()), [state.store]);
  useEffect(() => {
    if (inPage) document.title = `${store.path.split("/").pop()} – dmkd`;
  }, [store.path]);

  const pick = useCallback((id) => setPicked((before) => {
    const after = new Set(before);
    if (!after.delete(id)) after.add(id);
    return after;
  }), []);
  const open = useCallback((image, place = null) => {
    setOpened(place);
    change({ image });
  }, []);
  const shared = { server, store, stores, state, change, query, answer, now, open, picked };
  const main = useRef(null);
  const views = { images: ImagesView, classes: ClassesView, confusion: ConfusionView, teachers: TeachersView, stores: StoresView, live: LiveView };
  const View = views[state.tab];
  const tabs = TABS.filter(([name]) => (name !== "stores" || stores.length > 1) && (name !== "teachers" || Object.keys(store.label_sets).length > 1));
  return html`<div class="app">
    <header>
      <h1 class=${stores.length > 1 ? "hidden" : "brand"} title=${store.path}>${store.path.split("/").filter(Boolean).pop()}</h1>
      ${stores.length > 1 && html`<label class="pickstore"><span class="hidden">Store</span>
        <select aria-label="Store" value=${state.store} onChange=${(event) => change({ ...START, tab: state.tab, size: state.size, store: Number(event.target.value) })}>
          ${stores.map((one, number) => html`<option value=${number}>${one.path}</option>`)}
        </select>
      </label>`}
      <nav aria-label="Views">
        ${tabs.map(([name, title]) => html`<button type="button" aria-current=${state.tab === name ? "page" : undefined} onClick=${() => change({ tab: name })}>${title}</button>`)}
      </nav>
      <${Progress} now=${now} lost=${lost} />
    </header>
    ${now.problems.length > 0 && html`<details class="problem banner"><summary>${now.problems.length === 1 ? "A part of the store can't be read" : `${now.problems.length} parts of the store can't be read`}</summary><ul>${now.problems.map((one) => html`<li>${one}</li>`)}</ul></details>`}
    <div class=${`body ${state.tab === "live" ? "whole" : ""}`}>
      ${state.tab !== "live" && html`<button type="button" class="skip" onClick=${() => main.current.focus()}>Skip the filters</button><${Filters} ...${shared} />`}
      <main ref=${main} tabindex="-1">
        ${["images", "teachers"].includes(state.tab) && html`<${Toolbar} ...${shared} onSave=${() => setSaving(true)} clear=${() => setPicked(new Set())} />`}
        ${query && html`<${View} ...${shared} pick=${pick} />`}
      </main>
    </div>
    ${state.image !== null && query && html`<${ImageDialog} ...${shared} place=${opened} setPlace=${setOpened} pick=${pick} close=${() => change({ image: null })} />`}
    ${saving && html`<${SaveDialog} ...${shared} close=${() => setSaving(false)} />`}
  </div>`;
}

function Progress({ now, lost }) {
  if (lost) return html`<span class="state problem" role="status">No answer: is dmkd browse still running?</span>`;
  if (now.blocks_to_read > 0) return html`<span class="state" role="status">reading, ${count(now.blocks_to_read)} blocks to go</span>`;
  if (now.blocks_made < now.num_blocks) return html`<span class="state" role="status">${count(now.blocks_made)} of ${count(now.num_blocks)} blocks made</span>`;
  return html`<span class="state quiet">${images(now.images_made)}</span>`;
}

function ImagesView({ server, store, state, query, answer, now, picked, pick, open }) {
  return html`<${Grid}
    server=${server}
    store=${store}
    query=${query}
    count=${answer.found?.count ?? 0}
    version=${now.version}
    size=${state.size}
    picked=${picked}
    onPick=${pick}
    onOpen=${open}
  />`;
}
