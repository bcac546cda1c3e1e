// One image: its views as the teacher saw them, where they lie in it, and what each teacher says of each.

import { useAnswer, usePicture } from "./asking.js";
import { inSheet, pixelated } from "./pictures.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { className, count, numberedClass, percent, short } from "./words.js";

const COLORS = 8; // of boxes, by the style sheet
const LOWEST = 0.25;
const HIGHEST = 32; // temperatures

export function ImageDialog({ server, store, state, query, answer, now, place, setPlace, picked, pick, change, close }) {
  const dialog = useRef(null);
  const [temperature, setTemperature] = useState(1);
  const [marked, setMarked] = useState(null);
  const image = state.image;
  const { found, error } = useAnswer(server, "image", { store: state.store, id: image, temperature }, now.version);
  const [unread, setUnread] = useState(null); // why an image can't be shown: its number and a sentence
  const asked = { store: state.store, id: image };
  const why = () => server.ask("pixels", asked).catch((problem) => setUnread([image, problem.message]));
  const pixels = usePicture(server, "pixels", asked, why);
  useEffect(() => {
    dialog.current.showModal();
  }, []);

  const total = answer.found?.count ?? 0;
  const move = async (by) => {
    const next = place + by;
    if (place === null || next < 0 || next >= total) return;
    const rows = await server.ask("rows", { ...query, start: next, count: 1 }).catch(() => null); // the page says that it is gone
    if (rows?.ids.length) {
      setPlace(next);
      change({ image: rows.ids[0] });
    }
  };
  const pressed = (event) => {
    if (/^(INPUT|SELECT|UL)$/.test(event.target.tagName)) return; // the list of views scrolls by arrows
    if (event.key === "ArrowRight") move(1);
    else if (event.key === "ArrowLeft") move(-1);
    else if (event.key === "x") pick(image);
  };
  const shape = store.image_shape;
  return html`<dialog ref=${dialog} class="image" aria-label=${`Image ${image}`} onClose=${close} onKeyDown=${pressed}
      onClick=${(event) => event.target === dialog.current && dialog.current.close()}>
    <div class="head">
      <h2>Image ${image}${found && found.image_id === image && html`, asked for <b>${numberedClass(store, found.class_id)}</b>`}</h2>
      <span class="space"></span>
      ${place !== null && html`<span class="quiet">${count(place + 1)} of ${count(total)}</span>
        <button type="button" onClick=${() => move(-1)} disabled=${place === 0} aria-label="Previous image">←</button>
        <button type="button" onClick=${() => move(1)} disabled=${place + 1 >= total} aria-label="Next image">→</button>`}
      <button type="button" aria-pressed=${picked.has(image)} onClick=${() => pick(image)}>${picked.has(image) ? "Picked ✓" : "Pick"}</button>
      <button type="button" onClick=${() => dialog.current.close()} aria-label="Close">×</button>
    </div>
    ${error && html`<p class="problem" role="alert">${error}</p>`}
    ${unread?.[0] === image && html`<p class="problem" role="alert">${unread[1]}</p>`}
    ${found && found.image_id === image && html`<div class="facts">
      <figure>
        <${Outlined} pixels=${pixels} failed=${why} shape=${shape} store=${store} views=${found.view_sets[0]} marked=${marked} />
        <figcaption class="quiet">as stored, ${shape[1]} × ${shape[0]}${found.view_sets.length > 0 && ", its views outlined"}</figcaption>
      </figure>
      <${Opinions} store=${store} found=${found} />
      <label class="temperature">Temperature of the softmax
        <span><input type="range" min=${Math.log(LOWEST)} max=${Math.log(HIGHEST)} step="any" value=${Math.log(temperature)}
          aria-valuetext=${short(temperature)} onInput=${(event) => setTemperature(Number(Math.exp(event.target.value).toPrecision(3)))} />
        <output>${short(temperature)}</output>
        <button type="button" onClick=${() => setTemperature(1)} disabled=${temperature === 1}>1</button></span>
      </label>
    </div>
    ${found.view_sets.map((views) => html`<${Views} key=${views.name} server=${server} store=${store} state=${state} found=${found} views=${views} setMarked=${setMarked} />`)}
    ${found.view_sets.length === 0 && html`<p class="quiet">No views are stored of it.</p>`}`}
  </dialog>`;
}

// The image with the boxes of its first views.
function Outlined({ pixels, failed, shape, store, views, marked }) {
  const boxes = (views?.views ?? []).flatMap(({ box }, number) => (box[2] * box[3] < 0.999 ? [[box, number]] : []));
  const [above, beside] = views?.padding ?? [0, 0];
  const [height, width] = shape;
  const view = [-beside * width, -above * height, width * (1 + 2 * beside), height * (1 + 2 * above)];
  return html`<svg class=${`outlined ${pixelated(store) ? "pixels" : ""}`} viewBox=${view.join(" ")} role="img" aria-label="The image with its views outlined">
    ${pixels && html`<image href=${pixels} width=${width} height=${height} preserveAspectRatio="none" onError=${failed} />`}
    ${boxes.map(([[top, left, high, wide], number]) => html`<rect
      class=${`box color${number % COLORS} ${marked === number ? "marked" : marked === null ? "" : "faint"}`}
      x=${left * width} y=${top * height} width=${wide * width} height=${high * height} vector-effect="non-scaling-stroke" />`)}
  </svg>`;
}

function Opinions({ store, found }) {
  return html`<table class="opinions">
    <thead><tr><th scope="col">Teacher</th><th scope="col">sees</th><th scope="col">p(class)</th><th scope="col">entropy</th></tr></thead>
    <tbody>
      ${found.label_sets.map((one) => html`<tr>
        <th scope="row" title=${one.teacher}>${one.name}</th>
        ${one.problem ? html`<td colspan="3" class="problem">${one.problem}</td>` : html`
          <td class=${one.top1 === found.class_id ? "" : "seen"}>${numberedClass(store, one.top1)}</td><td>${one.p_class.toFixed(3)}</td><td>${short(one.entropy)}</td>`}
      </tr>`)}
      ${found.label_sets.length === 0 && html`<tr><td colspan="4" class="quiet">No labels yet.</td></tr>`}
      ${Object.entries(found.columns).map(([name, value]) => html`<tr><th scope="row" title=${store.columns[name]}>${name}</th><td colspan="3">${short(value)}</td></tr>`)}
    </tbody>
  </table>`;
}

function Views({ server, store, state, found, views, setMarked }) {
  const url = usePicture(server, "views", { store: state.store, id: found.image_id, view_set: views.name });
  const teachers = found.label_sets.filter((one) => one.view_set === views.name);
  const shown = views.views.length;
  return html`<section class="views">
    <h3>Views <b>${views.name}</b>, ${views.number} of ${views.size} × ${views.size} pixels${shown < views.number && shown > 0 && `; the first ${shown}`}</h3>
    ${views.problem && html`<p class="problem">${views.problem}</p>`}
    <ul tabindex="0" aria-label=${`Views ${views.name}`}>
      ${views.views.map((view, number) => html`<li key=${number} onMouseEnter=${() => setMarked(number)} onMouseLeave=${() => setMarked(null)}>
        <div class=${`seenview ${views.size <= 64 ? "pixels" : ""} color${number % COLORS} ${view.box[2] * view.box[3] < 0.999 ? "part" : ""}`}
          style=${inSheet(url, number, shown, 1)} role="img" aria-label=${`View ${number}: ${view.in_words}`}></div>
        <p>view ${number}, <span class="quiet">${view.in_words}</span></p>
        ${teachers.map((one) => one.top.length > number && html`<${Top} key=${one.name} store=${store} labels=${one} top=${one.top[number]} asked=${found.class_id} />`)}
      </li>`)}
    </ul>
  </section>`;
}

function Top({ store, labels, top, asked }) {
  return html`<table class="top">
    <caption>${labels.name}</caption>
    <tbody>
      ${top.map(([classId, p]) => html`<tr class=${classId === asked ? "asked" : ""}>
        <th scope="row"><span class="bar" style=${{ width: `${100 * p}%` }}></span><span class="name">${className(store, classId)}</span></th><td>${percent(p)}</td>
      </tr>`)}
    </tbody>
  </table>`;
}
