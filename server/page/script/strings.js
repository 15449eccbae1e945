// The page's words, from /page/strings/CODE.json. Whoever adds a file adds a language.

const FIRST = "en";
let words = {};
let spare = {};
export let language = FIRST;

const load = async (code) => (await fetch(`/page/strings/${code}.json`)).json();

/** Choose a language; words that its file lacks are English. */
export async function speak(code) {
  [words, spare] = await Promise.all([load(code), code === FIRST ? {} : load(FIRST)]);
  language = code;
  document.documentElement.lang = code;
  document.title = document.getElementById("brand").textContent;
  fill();
}

/** The language of those offered that the browser prefers. */
export function preferred(offered) {
  const wanted = navigator.languages.map((tag) => tag.split("-")[0].toLowerCase());
  return wanted.find((code) => offered.includes(code)) ?? (offered.includes(FIRST) ? FIRST : offered[0]);
}

/** Words by key, values put in. `values.n` chooses between key.one and key.other. A key without words is null. */
export function find(key, values = {}) {
  const form = "n" in values ? `${key}.${new Intl.PluralRules(language).select(values.n)}` : key;
  const text = words[form] ?? spare[form];
  return text?.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole) ?? null;
}

export const t = (key, values) => find(key, values) ?? key;

/** A number as the language writes it. */
export const number = (value, digits = 1) =>
  new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);

/** Put words where the document names them: data-t, data-t-label, data-t-title, data-t-placeholder, data-t-alt. */
export function fill(root = document) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const [key, attribute] of [["tLabel", "aria-label"], ["tTitle", "title"], ["tPlaceholder", "placeholder"], ["tAlt", "alt"]]) {
    const name = key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    for (const element of root.querySelectorAll(`[data-${name}]`)) element.setAttribute(attribute, t(element.dataset[key]));
  }
}
