// The prompt: one text, written by hand or put together from the model's words. What is chosen is read from the text.

import { by, make } from "./elements.js";
import { find, t } from "./strings.js";

const field = by("prompt");
let vocabulary = null;
let examples = [];
let chosen = {};
let changed = () => {};

const escaped = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const isColour = (word) => CSS.supports("color", word);
const any = (list) => list[Math.floor(Math.random() * list.length)];

export const prompt = {
  get text() { return field.value.trim().replace(/\s+/g, " "); },
  set text(text) {
    field.value = text;
    read();
  },
  focus() {
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  },
  onChange(callback) { changed = callback; },

  /** Take a model's words; the prompt stays if something is written. */
  use(model) {
    ({ vocabulary, examples } = model);
    chosen = {};
    if (!field.value) field.value = examples[0] ?? "";
    this.render();
  },

  /** Begin anew with the first example. */
  reset() { this.text = examples[0] ?? ""; },

  surprise() {
    if (!vocabulary) {
      if (examples.length) put(any(examples.filter((text) => text !== this.text)) ?? examples[0]);
      return;
    }
    for (const group of vocabulary.groups) chosen[group.name] = any(group.words);
    put(sentence());
  },

  /** Draw the words to be tapped, in the page's language. */
  render() {
    by("words").replaceChildren(...(vocabulary ? vocabulary.groups.map(drawGroup) : drawExamples()));
    read();
  },
};

function drawGroup(group) {
  const coloured = group.words.every(isColour);
  const chips = group.words.map((word) => {
    const chip = make("button", { type: "button", className: "chip", lang: "en", textContent: word });
    Object.assign(chip.dataset, { group: group.name, word });
    if (coloured) {
      chip.classList.add("coloured");
      chip.style.setProperty("--swatch", word);
    }
    return chip;
  });
  const legend = make("legend", { textContent: find(`group.${group.name}`) ?? group.name });
  return make("fieldset", { className: "group" }, legend, make("div", {}, ...chips));
}

function drawExamples() {
  if (!examples.length) return [];
  const chips = examples.map((text) => {
    const chip = make("button", { type: "button", className: "chip", lang: "en", textContent: text });
    chip.dataset.example = text;
    return chip;
  });
  return [make("fieldset", { className: "group examples" }, make("legend", { textContent: t("examples") }), make("div", {}, ...chips))];
}

/** Find which words the text has, the longest first, and mark them. */
function read() {
  for (const group of vocabulary?.groups ?? []) {
    const words = [...group.words].sort((one, two) => two.length - one.length).map(escaped);
    const found = new RegExp(`(?<![\\p{L}])(${words.join("|")})(?![\\p{L}])`, "iu").exec(field.value);
    const word = found && group.words.find((each) => each.toLowerCase() === found[1].toLowerCase());
    if (word) chosen[group.name] = word;
    for (const chip of by("words").querySelectorAll(`[data-group="${group.name}"]`)) {
      chip.setAttribute("aria-pressed", String(chip.dataset.word === word));
    }
  }
  for (const chip of by("words").querySelectorAll("[data-example]")) {
    chip.setAttribute("aria-pressed", String(chip.dataset.example === prompt.text));
  }
}

/** The first template with the chosen words in it; a group without one gets its first word, or none where it is optional. */
function sentence() {
  const words = Object.fromEntries(vocabulary.groups.map(({ name, words: [first], optional }) => [name, chosen[name] ?? (optional ? "" : first)]));
  return vocabulary.templates[0]
    .replace(/\{(\w+)\}/g, (whole, name) => words[name] ?? whole)
    .replace(/\s+/g, " ").trim()
    .replace(/\{a\} ?(?=(.?))/g, (_, next) => ("aeiou".includes(next.toLowerCase()) && next ? "an " : "a "));
}

function put(text) {
  field.value = text;
  read();
  changed();
}

by("words").addEventListener("click", ({ target }) => {
  const chip = target.closest(".chip");
  if (!chip) return;
  if (chip.dataset.example) return put(chip.dataset.example);
  const { group, word } = chip.dataset;
  const optional = vocabulary.groups.find(({ name }) => name === group).optional;
  if (optional && chip.getAttribute("aria-pressed") === "true") delete chosen[group];
  else chosen[group] = word;
  put(sentence());
});
by("surprise").addEventListener("click", () => prompt.surprise());
field.addEventListener("input", () => { read(); changed(); });
field.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  field.form.requestSubmit();
});
