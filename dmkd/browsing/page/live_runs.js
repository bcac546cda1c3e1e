// The runs that make and label the store: how far, how fast, what failed, what came last.

import { useAnswer } from "./asking.js";
import { LineChart, colorClass, line } from "./charts.js";
import { ago, clock, duration, rate, stateClass, stateTitle } from "./live_words.js";
import { Picture, drawnSize, inSheet } from "./pictures.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { count } from "./words.js";

const HEIGHT = 56; // pixels of a picture

export function Runs({ server, store, state, open, tick }) {
  const [opened, setOpened] = useState(() => new Set());
  const { found, error } = useAnswer(server, "runs", { store: state.store, open: [...opened].join(",") }, tick);
  const toggle = (name, wanted) => setOpened((before) => {
    if (before.has(name) === wanted) return before;
    const after = new Set(before);
    if (wanted) after.add(name);
    else after.delete(name);
    return after;
  });
  if (!found) return error ? html`<p class="problem" role="alert">${error}</p>` : html`<p class="quiet">…</p>`;
  const full = found.runs.filter((run, number) => number === 0 || run.state === "running");
  const earlier = found.runs.filter((run) => !full.includes(run));
  const shared = { server, store, number: state.store, open };
  return html`
    ${(error ?? found.problem) && html`<p class="problem" role="alert">${error ?? found.problem}</p>`}
    ${found.runs.length === 0 && html`<p class="quiet">The log names no run: none has made blocks of this store yet, or it came without its log.</p>`}
    ${full.map((run) => html`<section class="run" key=${run.name} aria-label=${`${run.command}, begun ${clock(run.started)}`}>
      <${Head} run=${run} /><${Run} run=${run} ...${shared} />
    </section>`)}
    ${earlier.length > 0 && html`<h3>Earlier</h3>`}
    ${earlier.map((run) => html`<details class="run" key=${run.name} open=${opened.has(run.name)} onToggle=${(event) => toggle(run.name, event.currentTarget.open)}>
      <summary><${Head} run=${run} brief=${true} /></summary>
      ${run.detail && html`<${Run} run=${run} ...${shared} />`}
    </details>`)}
  `;
}

export function Badge({ state, reason }) {
  return html`<span class=${`badge ${stateClass(state)}`} title=${stateTitle(state)}>${state}</span>${reason && html` <span class="problem">${reason}</span>`}`;
}

function Head({ run, brief }) {
  return html`<span class="runhead">
    <b>${run.command}</b> <${Badge} state=${run.state} reason=${run.reason} />
    <span class="quiet">${clock(run.started)}${run.hosts.length > 0 && ` · ${run.hosts.slice(0, 4).join(", ")}${run.hosts.length > 4 ? ` and ${run.hosts.length - 4} more` : ""}`}${run.hardware.length > 0 && ` · ${run.hardware.join(", ")}`}${brief && ` · ${count(run.blocks)} blocks, ${rate(run.overall)}`}</span>
  </span>`;
}

function Run({ run, server, store, number, open }) {
  const { detail } = run;
  const planned = run.planned ?? run.blocks;
  const facts = [
    ["Blocks", run.planned === null ? count(run.blocks) : `${count(run.blocks)} of ${count(planned)}`],
    ["Images", count(run.images)],
    [run.state === "running" ? "Images, last minute" : "Images, at the end", rate(run.lately)],
    ["Images, overall", rate(run.overall)],
    ...(run.state === "running" ? [["To go", run.eta === null ? "–" : `about ${duration(run.eta)}`], ["Last block", ago(run.last)]] : [["Took", duration(run.last === null || run.started === null ? null : run.last - run.started)]]),
    ["Failures", `${count(run.failures)}${run.left_out ? `, ${run.left_out} left out` : ""}`, run.failures > 0],
  ];
  return html`<div class="runbody">
    ${run.planned !== null && html`<progress max=${Math.max(1, planned)} value=${run.blocks} aria-label=${`Blocks of ${run.command}`}></progress>`}
    <dl class="facts">${facts.map(([name, value, bad]) => html`<div key=${name}><dt>${name}</dt><dd class=${bad ? "problem" : ""}>${value}</dd></div>`)}</dl>
    ${detail && html`
      <div class="charts">
        ${detail.curve && html`<${RateChart} curve=${detail.curve} />`}
        ${detail.newest.length > 0 && html`<${Newest} server=${server} store=${store} number=${number} ids=${detail.newest} open=${open} />`}
      </div>
      ${detail.workers.length > 0 && html`<${Workers} workers=${detail.workers} of=${run.workers} curves=${detail.curve?.workers ?? {}} />`}
      ${detail.failures.length > 0 && html`<${Failures} failures=${detail.failures} of=${run.failures} />`}
    `}
  </div>`;
}

// The number of a worker's colour; that of all together is 0.
const colorOf = (curves, name) => 1 + Object.keys(curves).indexOf(name);

function RateChart({ curve }) {
  const { start, end, total, workers } = curve;
  const width = (end - start) / total.length;
  const points = (rates) => rates.map((value, i) => [(i + 0.5) * width, value]);
  const names = Object.keys(workers);
  const lines = [line(names.length ? "all" : "images/s", 0, points(total)), ...names.map((name) => line(name, colorOf(workers, name), points(workers[name])))];
  return html`<${LineChart} title="Images a second" legend=${names.length > 0 && html`<span class="swatch color0"></span>all`} across="time since the first block" lines=${lines} formatX=${duration} fromZero=${true} />`;
}

function Workers({ workers, of, curves }) {
  return html`<details class="below" open=${workers.length > 1}>
    <summary>${count(of)} worker${of === 1 ? "" : "s"}</summary>
    <div class="tablebox" tabindex="0" role="region" aria-label="Workers">
      <table class="listed">
        <thead><tr><th scope="col">Worker</th><th scope="col">Blocks</th><th scope="col">Images</th><th scope="col">Last minute</th><th scope="col">Overall</th><th scope="col">Last block</th><th scope="col">Where</th></tr></thead>
        <tbody>${workers.map((one) => html`<tr key=${one.name}>
          <th scope="row">${colorOf(curves, one.name) > 0 && html`<span class=${`swatch ${colorClass(colorOf(curves, one.name))}`}></span>`}${one.name}</th>
          <td>${count(one.blocks)}</td><td>${count(one.images)}</td><td>${rate(one.lately)}</td><td>${rate(one.overall)}</td><td>${ago(one.last)}</td>
          <td>${[one.host, one.hardware].filter(Boolean).join(" · ")}</td>
        </tr>`)}</tbody>
      </table>
    </div>
    ${of > workers.length && html`<p class="quiet">Those that finished a block last.</p>`}
  </details>`;
}

function Failures({ failures, of }) {
  return html`<details class="below" open>
    <summary>${count(of)} failure${of === 1 ? "" : "s"}</summary>
    <div class="failures" tabindex="0" role="region" aria-label="Failures"><ul>${failures.map((one, i) => html`<li key=${`${one.at} ${i}`}>
      ${one.block === null ? (one.worker ? `Worker ${one.worker} died` : "A worker could not start") : html`Block ${one.block}${one.worker && ` on ${one.worker}`}`}: <span class="problem">${one.reason}</span>${one.left_out && html` <b>Left out.</b>`} <span class="quiet">${ago(one.at)}</span>
    </li>`)}</ul></div>
    ${of > failures.length && html`<p class="quiet">The last ${failures.length}.</p>`}
  </details>`;
}

// Pictures of some images that change now and then: the old ones stay until the new ones are here.
function useSteadySheet(server, store, number, ids, pixels) {
  const [shown, setShown] = useState({ url: null, ids: [] });
  const newest = useRef("");
  const key = ids.join(",");
  useEffect(() => {
    newest.current = key;
    const draw = async () => {
      const url = await server.picture("thumbs", { store: number, ids: key, size: drawnSize(store, pixels) });
      const image = new Image();
      image.src = url;
      await image.decode();
      if (newest.current === key) setShown({ url, ids });
    };
    draw().catch(() => {});
  }, [key, number]);
  return shown;
}

function Newest({ server, store, number, ids, open }) {
  const sheet = useSteadySheet(server, store, number, ids, HEIGHT);
  return html`<div class="newest">
    <p>Newest</p>
    <div class="strip">${sheet.ids.map((id, place) => html`<${Picture} key=${place} store=${store} height=${HEIGHT} style=${inSheet(sheet.url, place, sheet.ids.length)} label=${`Image ${id}`} onOpen=${() => open(id)} />`)}</div>
  </div>`;
}
