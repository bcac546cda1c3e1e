// What is looked at, as one object: it is in the page's address, so that "back" works and an address can be kept.

export const TABS = [
  ["images", "Images"],
  ["classes", "Classes"],
  ["confusion", "Confusion"],
  ["teachers", "Two teachers"],
  ["stores", "Stores"],
  ["live", "Live"],
];

export const START = {
  tab: "images",
  store: 0,
  judge: null, // the label set whose teacher's opinion counts
  versus: null, // another one
  pair: null, // of the images that both have labelled, which
  rule: "",
  classes: [],
  seen: null, // the class that the teacher sees
  agree: null, // true, false; null: either
  ranges: {}, // name -> [low, high], null where there is no limit
  ids: null, // these images alone
  sort: null, // the view's own order
  down: false,
  size: 96, // pixels of a picture
  image: null,
};

const FILTERS = ["pair", "rule", "classes", "seen", "agree", "ranges", "ids"];
export const NO_FILTERS = Object.fromEntries(FILTERS.map((name) => [name, START[name]]));

export const isFiltered = (state) => FILTERS.some((name) => JSON.stringify(state[name]) !== JSON.stringify(START[name]));

// Names are a store's: one may be "constructor".
export const rangeOf = (state, name) => (Object.hasOwn(state.ranges, name) ? state.ranges[name] : null);

// Numbers as a rule has them: as short as they can be told apart on the screen.
const written = (value) => String(Number(value.toPrecision(4)));

// [3, 4, 5, 9] -> "3 <= class_id <= 5 or class_id == 9"
function ofClasses(classes) {
  const ranges = [];
  for (const one of [...classes].sort((a, b) => a - b)) {
    const last = ranges[ranges.length - 1];
    if (last && one === last[1] + 1) last[1] = one;
    else ranges.push([one, one]);
  }
  return ranges.map(([a, b]) => (a === b ? `class_id == ${a}` : `${a} <= class_id <= ${b}`)).join(" or ");
}

// All filters as one rule, which train-student --select takes.
export function ruleOf(state) {
  const parts = [];
  if (state.rule.trim()) parts.push(state.rule.trim());
  if (state.classes.length) parts.push(ofClasses(state.classes));
  if (state.seen !== null) parts.push(`top1 == ${state.seen}`);
  if (state.agree !== null) parts.push(state.agree ? "agree" : "not agree");
  for (const [name, [low, high]] of Object.entries(state.ranges)) {
    if (low !== null && high !== null) parts.push(`${written(low)} <= ${name} <= ${written(high)}`);
    else if (low !== null) parts.push(`${name} >= ${written(low)}`);
    else if (high !== null) parts.push(`${name} <= ${written(high)}`);
  }
  return parts.length < 2 ? parts.join("") : parts.map((part) => (/ or /.test(part) ? `(${part})` : part)).join(" and ");
}

export const queryOf = (state) => ({
  store: state.store,
  judge: state.judge,
  versus: state.versus,
  pair: state.pair,
  rule: ruleOf(state),
  ids: state.ids === null ? null : state.ids.join(",") || ",",
  sort: state.sort,
  down: state.down ? 1 : "",
});

// Whether two states are one to whoever goes back: between them a slider was moved, or the next image looked at.
export const isOneStep = (before, after) => Object.keys(after).every(
  (name) => before[name] === after[name] || name === "size" || (name === "image" && before.image !== null && after.image !== null),
);

// What differs from the start, as the part of an address after #.
export function toHash(state) {
  const changed = Object.entries(state).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(START[name]));
  return changed.length ? encodeURIComponent(JSON.stringify(Object.fromEntries(changed))) : "";
}

// Whatever an address holds: what does not fit is left out.
export function fromHash(hash) {
  let found = {};
  try {
    found = JSON.parse(decodeURIComponent(hash.replace(/^#/, "")) || "{}");
  } catch {
    return { ...START };
  }
  const state = { ...START };
  const isNumber = (value) => Number.isInteger(value) && value >= 0;
  const isText = (value) => typeof value === "string";
  const fits = {
    __proto__: null, // no name is known but these
    tab: (value) => TABS.some(([name]) => name === value),
    store: isNumber,
    judge: isText,
    versus: isText,
    pair: isText,
    rule: isText,
    classes: (value) => Array.isArray(value) && value.every(isNumber),
    seen: isNumber,
    agree: (value) => typeof value === "boolean",
    ranges: (value) =>
      value && typeof value === "object" && Object.values(value).every(
        (pair) => Array.isArray(pair) && pair.length === 2 && pair.every((end) => end === null || Number.isFinite(end)),
      ),
    ids: (value) => Array.isArray(value) && value.every(isNumber),
    sort: isText,
    down: (value) => typeof value === "boolean",
    size: (value) => isNumber(value) && value >= 32 && value <= 256,
    image: isNumber,
  };
  for (const [name, value] of Object.entries(found ?? {})) if (fits[name]?.(value)) state[name] = value;
  return state;
}
