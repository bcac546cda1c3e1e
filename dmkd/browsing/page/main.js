// The page in a browser: questions go to the server that it came from.

import { App } from "./app.js";
import { html, render } from "./vendor/preact.js";

function address(question, asked) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(asked)) {
    if (value !== null && value !== undefined && value !== "") words.set(name, value);
  }
  return `ask/${question}?${words}`;
}

async function answered(response) {
  const found = await response.json();
  if (found.error) throw new Error(found.error);
  return found;
}

const server = {
  async ask(question, asked = {}) {
    return answered(await fetch(address(question, asked)));
  },
  async save(asked) {
    const headers = { "Content-Type": "application/json" };
    return answered(await fetch("ask/save", { method: "POST", headers, body: JSON.stringify(asked) }));
  },
  // An address for the src of an image.
  async picture(question, asked) {
    return address(question, asked);
  },
};

render(html`<${App} server=${server} inPage=${true} />`, document.getElementById("dmkd"));
