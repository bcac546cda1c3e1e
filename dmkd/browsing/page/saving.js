// Keeping a selection in the store.

import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { images } from "./words.js";

export function SaveDialog({ server, store, state, query, answer, picked, close }) {
  const dialog = useRef(null);
  const [name, setName] = useState("");
  const [only, setOnly] = useState(picked.size > 0);
  const [saved, setSaved] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    dialog.current.showModal();
  }, []);
  const save = async (event) => {
    event.preventDefault();
    setError(null);
    const asked = only ? { store: state.store, ids: [...picked].join(",") } : query;
    const texts = Object.fromEntries(Object.entries({ ...asked, name }).filter(([, value]) => value !== null).map(([key, value]) => [key, String(value)]));
    try {
      setSaved(await server.save(texts));
    } catch (problem) {
      setError(problem.message);
    }
  };
  const byHand = only || state.pair !== null || state.ids !== null;
  return html`<dialog ref=${dialog} class="save" aria-label="Save selection" onClose=${close}>
    <h2>Save selection</h2>
    ${saved ? html`<${Saved} store=${store} saved=${saved} close=${() => dialog.current.close()} />` : html`<form onSubmit=${save}>
      ${picked.size > 0 && html`<fieldset class="choices">
        <legend>What</legend>
        <label class="choice"><input type="radio" name="dmkd-what" checked=${only} onChange=${() => setOnly(true)} />the ${images(picked.size)} picked</label>
        <label class="choice"><input type="radio" name="dmkd-what" checked=${!only} onChange=${() => setOnly(false)} />all ${images(answer.found?.count ?? 0)} that fit</label>
      </fieldset>`}
      <p>${byHand
        ? html`No rule says which these are: they are saved as a column of the store, 1 for these images and 0 for the others.`
        : html`Saved as a rule, which goes for images that come later, too: <code class="rule">${query.rule || "(every image)"}</code>`}</p>
      <label>Name <input type="text" value=${name} required autocomplete="off" spellcheck=${false} onInput=${(event) => setName(event.target.value)} /></label>
      ${error && html`<p class="problem" role="alert">${error}</p>`}
      <p class="buttons"><button type="button" onClick=${() => dialog.current.close()}>Cancel</button> <button type="submit">Save</button></p>
    </form>`}
  </dialog>`;
}

// A word as a shell takes it.
const quoted = (text) => (/^[\w./:@%+,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function Saved({ store, saved, close }) {
  const labels = saved.labels ? ` --labels ${quoted(saved.labels)}` : "";
  const command = `dmkd train-student --store ${quoted(store.path)}${labels} --select ${quoted(saved.select)}`;
  const [copied, setCopied] = useState(false);
  const copy = () => navigator.clipboard?.writeText(command).then(() => setCopied(true), () => {});
  return html`<div>
    <p role="status">${images(saved.images)} saved as <b>${saved.select}</b>. To train on them:</p>
    <p><code class="rule">${command}</code></p>
    <p class="buttons"><button type="button" onClick=${copy}>${copied ? "Copied" : "Copy"}</button> <button type="button" onClick=${close}>Done</button></p>
  </div>`;
}
