// Times and states as people read them.

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

// 4210 -> "1 h 10 min"
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.max(0, Math.round(seconds));
  const first = UNITS.findIndex(([size]) => whole >= size);
  if (first < 0) return "0 s";
  const [size, unit] = UNITS[first];
  const rest = UNITS[first + 1] ? Math.floor((whole % size) / UNITS[first + 1][0]) : 0;
  return `${Math.floor(whole / size)} ${unit}${rest && first < 2 ? ` ${rest} ${UNITS[first + 1][1]}` : ""}`;
}

export const ago = (at) => (at === null ? "–" : `${duration(Date.now() / 1000 - at)} ago`);

export const clock = (at) => (at === null ? "–" : new Date(1000 * at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }));

export const rate = (value) => (value === null || value === undefined ? "–" : `${value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(3)}/s`);

const STATES = { running: "running", done: "done", interrupted: "interrupted", stopped: "stopped without an end: killed, or its machine", failed: "failed" };

// The class of a state, and its word; a stranger's state is a word like others.
export const stateClass = (state) => (Object.hasOwn(STATES, state) ? state : "unknown");
export const stateTitle = (state) => (Object.hasOwn(STATES, state) ? STATES[state] : "");
