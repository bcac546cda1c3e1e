// Numbers and names as people read them.

export const count = (value) => value.toLocaleString("en");
export const images = (value) => `${count(value)} image${value === 1 ? "" : "s"}`;
export const percent = (value, digits = 1) => (value === null ? "–" : `${(100 * value).toFixed(digits)} %`);

export function short(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1000 || (value !== 0 && Math.abs(value) < 0.001) ? value.toExponential(1) : value.toPrecision(3);
}

const LONGEST = 80; // of a name, which can be a stranger's

// Of a class's synonyms the first; of a class without a name its number.
export function className(store, classId) {
  const name = (store.class_names[classId] ?? "").split(",")[0].trim();
  return name.length > LONGEST ? `${name.slice(0, LONGEST)}…` : name || String(classId);
}

export function numberedClass(store, classId) {
  const name = className(store, classId);
  return name === String(classId) ? name : `${classId} ${name}`;
}
