// The page as a widget of a notebook: questions go to the kernel, as messages.

import { App } from "./app.js";
import { html, render as draw } from "./vendor/preact.js";

const PICTURES = 300; // kept as object addresses, those made last

function kernel(model) {
  const waiting = new Map(); // number of a question -> what its answer goes to
  const pictures = new Map(); // question -> object address
  let last = 0;
  const heard = (message, buffers) => {
    const found = waiting.get(message.number);
    if (!found) return;
    waiting.delete(message.number);
    if (message.media_type !== "application/json") found.resolve(new Blob([buffers[0]], { type: message.media_type }));
    else {
      const answer = JSON.parse(new TextDecoder().decode(buffers[0]));
      if (answer.error) found.reject(new Error(answer.error));
      else found.resolve(answer);
    }
  };
  model.on("msg:custom", heard);
  const send = (question, asked = {}) => new Promise((resolve, reject) => {
    const texts = {};
    for (const [name, value] of Object.entries(asked)) if (value !== null && value !== undefined && value !== "") texts[name] = String(value);
    last += 1;
    waiting.set(last, { resolve, reject });
    model.send({ number: last, question, asked: texts });
  });
  return {
    ask: send,
    save: (asked) => send("save", asked),
    async picture(question, asked) {
      const key = JSON.stringify([question, asked]);
      if (!pictures.has(key)) {
        pictures.set(key, send(question, asked).then((blob) => URL.createObjectURL(blob)));
        if (pictures.size > PICTURES) {
          const [oldest, address] = pictures.entries().next().value;
          pictures.delete(oldest);
          address.then((url) => URL.revokeObjectURL(url), () => {});
        }
      }
      return pictures.get(key);
    },
    close() {
      model.off("msg:custom", heard);
      for (const address of pictures.values()) address.then((url) => URL.revokeObjectURL(url), () => {});
    },
  };
}

export function render({ model, el }) {
  const server = kernel(model);
  const page = document.createElement("div");
  page.className = "dmkd widget";
  // Its keys are its own, and not shortcuts of the notebook.
  page.dataset.lmSuppressShortcuts = "true";
  page.addEventListener("keydown", (event) => event.stopPropagation());
  el.append(page);
  draw(html`<${App} server=${server} inPage=${false} />`, page);
  return () => {
    draw(null, page);
    server.close();
  };
}
