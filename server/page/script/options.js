// Format, length, seed and first picture of what is asked for.

import { takePicture } from "./camera.js";
import { by, make } from "./elements.js";
import { find, number, t } from "./strings.js";

const LARGEST = 20 * 1024 ** 2;
const KINDS = ["image/png", "image/jpeg", "image/webp"];
const MOST_SEED = 2 ** 32 - 1;
const TIMES = [1, 2, 4];

let model = null;
let formats = [];
let picture = null;
let told = () => {};

export const options = {
  get picture() { return picture; },
  /** Call back with words for people where a picture cannot be used, with "" where one can. */
  onPicture(callback) { told = callback; },

  /** Take what a model and the operator's presets offer. */
  use(facts, presets, { upload: mayUpload, camera, kiosk }) {
    const upload = mayUpload && !kiosk;
    model = facts;
    formats = distinct(presets.length && facts.default ? presets : ownFormats(facts));
    by("start").hidden = !facts.takes_picture || !(upload || camera);
    by("file").hidden = by("file").previousElementSibling.hidden = !upload;
    by("camera").hidden = !camera || !navigator.mediaDevices;
    this.setPicture(null);
    this.render();
  },

  /** Draw the choices, in the page's language; the first ones are chosen unless others are. */
  render() {
    const before = chosenIndex("format");
    by("formats").lastElementChild.replaceChildren(...formats.map((format, index) => {
      const [width, height] = format.size.split("x").map(Number);
      const name = find(`format.${format.name}`) ?? format.label ?? format.name;
      const box = make("span", { className: "box", ariaHidden: "true" });
      box.style.setProperty("--shape", `${width} / ${height}`);
      box.style.setProperty("--across", `${width >= height ? 1.25 : (1.25 * width) / height}rem`);
      return choice("format", index, index === before, box, make("span", { className: "name", textContent: name }), t("format.size", { width, height }));
    }));
    by("formats").hidden = formats.length < 2;
    this.renderLengths();
  },

  renderLengths() {
    const before = chosenIndex("length");
    by("lengths").lastElementChild.replaceChildren(...TIMES.map((times, index) => {
      const seconds = number(ownSeconds() * times, 0);
      return choice("length", index, index === before, null, make("span", { textContent: t("seconds", { seconds }) }));
    }));
  },

  /** The request's settings; raises RangeError with words for people where the seed is none. */
  fields() {
    const format = formats[chosenIndex("format")];
    const times = TIMES[chosenIndex("length")];
    const typed = by("seed").value.trim();
    if (!/^\d{0,10}$/.test(typed) || Number(typed) > MOST_SEED) throw new RangeError(t("seed.wrong"));
    const seed = typed ? Number(typed) : crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
    const fields = { seed, size: format.size };
    if (format.fps) fields.fps = format.fps;
    if (format.seconds && Number(format.seconds) !== model.frames / model.fps) fields.seconds = String(format.seconds * times);
    else fields.num_frames = framesOf(times);
    return fields;
  },

  setPicture(file) {
    if (picture) URL.revokeObjectURL(by("chosen").firstElementChild.src);
    picture = file;
    by("chosen").hidden = !file;
    if (file) by("chosen").firstElementChild.src = URL.createObjectURL(file);
  },

  reset() {
    by("seed").value = "";
    this.setPicture(null);
    for (const name of ["format", "length"]) {
      const first = document.querySelector(`input[name=${name}]`);
      if (first) first.checked = true;
    }
  },
};

/** Seconds of the chosen format's shortest clip. */
const ownSeconds = () => Number(formats[chosenIndex("format")].seconds ?? model.frames / model.fps);

/** Pictures of a clip so many times as long as the model's own: always a number that it can make. */
const framesOf = (times) => (model.frames - 1) * times + 1;

const ownFormats = ({ width, height, formats }) =>
  Object.entries({ default: [width, height], ...formats }).map(([name, size]) => ({ name, size: size.join("x") }));

/** Without the default where a named one is the same. */
const distinct = (all) => all.filter(({ name, size }) => name !== "default" || !all.some((other) => other.name !== "default" && other.size === size));

const chosenIndex = (name) => Math.max(0, [...document.querySelectorAll(`input[name=${name}]`)].findIndex((input) => input.checked));

function choice(name, index, checked, ...parts) {
  const label = typeof parts.at(-1) === "string" ? parts.pop() : null;
  const input = make("input", { type: "radio", name, value: String(index), checked, className: "unseen" });
  const face = make("span", { className: "face" }, ...parts);
  return make("label", { title: label }, input, face);
}

function offer(file) {
  if (!file) return;
  const usable = KINDS.includes(file.type) && file.size <= LARGEST;
  if (usable) options.setPicture(file);
  told(usable ? "" : t("picture.wrong"));
}

by("formats").addEventListener("change", () => options.renderLengths());
by("file").addEventListener("change", ({ target }) => {
  offer(target.files[0]);
  target.value = "";
});
by("camera").addEventListener("click", async () => offer(await takePicture()));
by("chosen").addEventListener("click", () => {
  options.setPicture(null);
  by("file").focus();
});
by("make").addEventListener("dragover", (event) => event.preventDefault());
by("make").addEventListener("drop", (event) => {
  event.preventDefault();
  if (!by("start").hidden) offer(event.dataTransfer.files[0]);
});
