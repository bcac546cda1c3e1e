// A grid of as many images as there are: what is in sight is there, a page of images a request.

import { drawnSize, inSheet, pixelated } from "./pictures.js";
import { useSize } from "./asking.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { className, short } from "./words.js";

const PAGE = 64;
const KEPT = 60; // pages, those used last
const AT_ONCE = 4; // requests
const PAUSE = 40; // milliseconds
const GAP = 10;
const LINE = 17;
// Browsers know no element higher than some 17 to 33 million pixels; above this the scroll bar moves in larger steps.
const HIGHEST = 12_000_000;

// Pages of one query: number -> {rows, url}. Those that are no longer wanted when their turn comes are not asked for.
class Pages {
  constructor(server, query, size, changed) {
    Object.assign(this, { server, query, size, changed });
    this.pages = new Map();
    this.asked = 0;
    this.wanted = [];
  }

  get(page) {
    return this.pages.get(page);
  }

  want(pages) {
    this.wanted = pages;
    this.next();
  }

  next() {
    for (const page of this.wanted) {
      if (this.asked >= AT_ONCE) return;
      if (!this.pages.has(page)) this.ask(page);
    }
  }

  async ask(page) {
    this.asked += 1;
    this.pages.set(page, {});
    try {
      const rows = await this.server.ask("rows", { ...this.query, start: page * PAGE, count: PAGE });
      this.pages.set(page, { rows });
      this.changed();
      const asked = { store: this.query.store, ids: rows.ids.join(","), size: this.size };
      this.pages.set(page, { rows, url: rows.ids.length ? await this.server.picture("thumbs", asked) : null });
    } catch (error) {
      this.pages.set(page, { error: error.message });
    }
    this.asked -= 1;
    while (this.pages.size > KEPT) {
      const oldest = [...this.pages.keys()].find((one) => !this.wanted.includes(one));
      if (oldest === undefined) break;
      this.pages.delete(oldest);
    }
    this.changed();
    this.next();
  }
}

export function Grid({ server, store, query, count, version, size, picked, onPick, onOpen }) {
  const box = useRef(null);
  const [width, height] = useSize(box);
  const [top, setTop] = useState(0);
  const [, redraw] = useState(0);
  const [focused, setFocused] = useState(0);
  const awaited = useRef(null); // the place whose tile gets the focus as soon as it is there
  const pages = useRef(null);

  const drawn = drawnSize(store, size);
  const key = JSON.stringify([query, version, drawn]);
  if (pages.current?.key !== key) {
    // Until the new ones are there, the old ones stay in sight: a store that grows does not flicker.
    const old = pages.current;
    pages.current = new Pages(server, query, drawn, () => pages.current?.key === key && redraw((n) => n + 1));
    pages.current.key = key;
    pages.current.old = old?.questionOf === JSON.stringify(query) ? old : null;
    pages.current.questionOf = JSON.stringify(query);
    if (old) old.old = null;
  }

  const [imageHeight, imageWidth] = store.image_shape;
  const tileHeight = Math.round((size * imageHeight) / Math.max(imageHeight, imageWidth));
  const tileWidth = Math.max(size, 80);
  const lines = query.versus ? 3 : 2;
  const rowHeight = tileHeight + lines * LINE + 12 + GAP;
  const columns = Math.max(1, Math.floor((width - GAP) / (tileWidth + GAP)));
  const rows = Math.ceil(count / columns);
  const full = rows * rowHeight + GAP;
  const shown = Math.min(full, HIGHEST);
  const steps = full > shown ? (full - height) / Math.max(1, shown - height) : 1;
  const offset = top * steps; // of the whole grid
  const first = Math.max(0, Math.floor(offset / rowHeight) - 1);
  const last = Math.min(rows, Math.ceil((offset + height) / rowHeight) + 1);
  const start = first * columns;
  const stop = Math.min(count, last * columns);

  // While it is scrolled, what is in sight is asked for now and then; and in any case where it comes to rest.
  const inSight = useRef(null);
  inSight.current = () => {
    const wanted = [];
    for (let page = Math.floor(start / PAGE); page * PAGE < stop; page += 1) wanted.push(page);
    if (stop < count) wanted.push(Math.ceil(stop / PAGE)); // what comes next
    if (width) pages.current.want(wanted);
  };
  const waiting = useRef(null);
  useEffect(() => {
    waiting.current ??= setTimeout(() => {
      waiting.current = null;
      inSight.current?.();
    }, PAUSE);
  }, [start, stop, key, width]);
  useEffect(() => () => (inSight.current = null), []);

  useEffect(() => {
    if (box.current) box.current.scrollTop = 0;
    setTop(0);
    setFocused(0);
  }, [JSON.stringify({ ...query, versus: null })]);

  const frame = useRef(0);
  const scrolled = () => {
    cancelAnimationFrame(frame.current);
    frame.current = requestAnimationFrame(() => box.current && setTop(box.current.scrollTop));
  };

  const goTo = (place) => {
    const next = Math.max(0, Math.min(count - 1, place));
    const y = Math.floor(next / columns) * rowHeight;
    if (y < offset || y + rowHeight > offset + height) {
      box.current.scrollTop = (y < offset ? y : y + rowHeight - height + GAP) / steps;
      setTop(box.current.scrollTop);
    }
    setFocused(next);
    awaited.current = next;
    if (!focusAwaited()) box.current.focus({ preventScroll: true }); // until it is there, keys still go to the grid
  };
  const focusAwaited = () => {
    const tile = box.current.querySelector(`[data-place="${awaited.current}"]`);
    if (!tile) return false;
    awaited.current = null;
    if (box.current.matches(":focus-within")) tile.focus({ preventScroll: true });
    return true;
  };
  useEffect(() => {
    if (awaited.current !== null) focusAwaited();
  });
  const moves = {
    ArrowRight: 1,
    ArrowLeft: -1,
    ArrowDown: columns,
    ArrowUp: -columns,
    PageDown: columns * Math.max(1, Math.floor(height / rowHeight)),
    PageUp: -columns * Math.max(1, Math.floor(height / rowHeight)),
    Home: -count,
    End: count,
  };
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) goTo(focused + moves[event.key]);
    else if (event.key === " " || event.key === "x") {
      const id = at(focused)?.id;
      if (id !== undefined) onPick(id);
    } else return;
    event.preventDefault();
  };

  // What is known of the image at a place of the order.
  const at = (place) => {
    const number = Math.floor(place / PAGE);
    let page = pages.current.get(number);
    if (!page?.rows) page = pages.current.old?.get(number) ?? page;
    const rows = page?.rows;
    const i = place % PAGE;
    if (!rows || i >= rows.ids.length) return { error: page?.error };
    return {
      id: rows.ids[i],
      classId: rows.class_ids[i],
      opinion: rows.opinion?.[i],
      other: rows.other?.[i],
      column: rows.column?.[i],
      style: inSheet(page.url, i, rows.ids.length),
    };
  };

  const reachable = start <= focused && focused < stop ? focused : Math.min(Math.ceil(offset / rowHeight) * columns, stop - 1);
  const tiles = [];
  for (let place = start; place < stop; place += 1) {
    const x = GAP + (place % columns) * (tileWidth + GAP);
    const y = GAP + Math.floor(place / columns) * rowHeight - offset + top;
    tiles.push(html`<${Tile}
      key=${place}
      store=${store}
      image=${at(place)}
      place=${place}
      x=${x}
      y=${y}
      size=${[tileWidth, size, tileHeight]}
      picked=${picked}
      inTabOrder=${place === reachable}
      onPick=${onPick}
      onOpen=${(id) => {
        setFocused(place);
        onOpen(id, place);
      }}
      sort=${query.sort}
    />`);
  }
  const entered = (event) => event.target.dataset.place && setFocused(Number(event.target.dataset.place));
  return html`<div class="grid" ref=${box} tabindex="-1" onScroll=${scrolled} onKeyDown=${pressed} onFocusCapture=${entered} role="group" aria-label="Images">
    <div style=${{ height: `${shown}px` }} class="canvas">${tiles}</div>
    ${count === 0 && html`<p class="empty">No image fits.</p>`}
  </div>`;
}

function seenAs(store, classId, opinion) {
  if (!opinion || opinion[0] === null) return ["no labels yet", ""];
  const sees = opinion[0] === classId ? "" : `→ ${className(store, opinion[0])}`;
  return [`p ${opinion[1].toFixed(3)}`, sees];
}

function Tile({ store, image, place, x, y, size, picked, inTabOrder, onPick, onOpen, sort }) {
  const [width, pictureWidth, pictureHeight] = size;
  const style = { transform: `translate(${x}px, ${y}px)`, width: `${width}px` };
  if (image.id === undefined) {
    return html`<div class="tile" style=${style}>
      <div class="blank" style=${{ height: `${pictureHeight}px` }}>${image.error && html`<span class="problem">${image.error}</span>`}</div>
    </div>`;
  }
  const { id, classId, opinion, other } = image;
  const name = className(store, classId);
  const [p, sees] = opinion === undefined ? ["", ""] : seenAs(store, classId, opinion);
  const value = sort === "entropy" && opinion ? `H ${short(opinion[2])}` : image.column !== undefined ? short(image.column) : null;
  const label = `Image ${id}, asked for ${name}${sees ? `, seen as ${sees.slice(2)}` : ""}${p ? `, ${p}` : ""}`;
  const isPicked = picked.has(id);
  return html`<div class=${`tile ${sees ? "disagrees" : ""} ${isPicked ? "picked" : ""}`} style=${style}>
    <button
      type="button"
      class=${`picture ${pixelated(store) ? "pixels" : ""}`}
      data-place=${place}
      tabindex=${inTabOrder ? 0 : -1}
      style=${{ ...image.style, height: `${pictureHeight}px`, width: `${Math.min(width, pictureWidth)}px` }}
      aria-label=${label}
      onClick=${() => onOpen(id)}
    ></button>
    <div class="line"><span class="quiet">${id}</span> <b>${name}</b></div>
    <div class="line">${value ?? p} <span class="seen">${sees}</span></div>
    ${other !== undefined && html`<div class="line other">${seenAs(store, classId, other).join(" ")}</div>`}
    <button type="button" class="pick" tabindex="-1" aria-pressed=${isPicked} aria-label=${`Pick image ${id}`} onClick=${() => onPick(id)}>
      ${isPicked ? "✓" : ""}
    </button>
  </div>`;
}
