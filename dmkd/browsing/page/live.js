// The runs that make the store.

import { html } from "./vendor/preact.js";
import { count } from "./words.js";

export function LiveView({ now }) {
  return html`<p class="empty">${count(now.blocks_made)} of ${count(now.num_blocks)} blocks are made.</p>`;
}
