// Small pictures, many of which come in one sheet.

import { usePicture } from "./asking.js";
import { html } from "./vendor/preact.js";

const COLUMNS = 8; // of a sheet, as thumbnails.py makes it

// The size that the server draws which is sharp at so many pixels of the screen.
export function drawnSize(store, pixels) {
  const wanted = pixels * Math.min(2, window.devicePixelRatio || 1);
  const natural = Math.max(store.image_shape[0], store.image_shape[1]);
  return store.sizes.find((size) => size >= Math.min(wanted, natural)) ?? store.sizes[store.sizes.length - 1];
}

// How a sheet of `number` pictures shows the one at `place`, as the style of an element with the shape of an image.
export function inSheet(url, place, number, columns = COLUMNS) {
  if (!url) return {};
  const rows = Math.ceil(number / columns);
  const column = place % columns;
  const row = Math.floor(place / columns);
  return {
    backgroundImage: `url("${url}")`,
    backgroundSize: `${100 * columns}% ${100 * rows}%`,
    backgroundPosition: `${columns > 1 ? (100 * column) / (columns - 1) : 0}% ${rows > 1 ? (100 * row) / (rows - 1) : 0}%`,
  };
}

export const pixelated = (store) => Math.max(store.image_shape[0], store.image_shape[1]) <= 64;

// Of a few images that belong together the addresses: ids -> a function from an id to a style.
export function useSheet(server, store, number, ids, pixels) {
  const asked = ids.length ? { store: number, ids: ids.join(","), size: drawnSize(store, pixels) } : null;
  const url = usePicture(server, "thumbs", asked);
  return (id) => inSheet(url, ids.indexOf(id), ids.length);
}

// A picture that opens its image.
export function Picture({ store, style, label, onOpen, height = 48 }) {
  const width = (height * store.image_shape[1]) / store.image_shape[0];
  return html`<button
    type="button"
    class=${`picture ${pixelated(store) ? "pixels" : ""}`}
    style=${{ ...style, width: `${width}px`, height: `${height}px` }}
    aria-label=${label}
    title=${label}
    onClick=${onOpen}
  ></button>`;
}
