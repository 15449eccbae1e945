// Settings, the PIN before them, the token of a server that needs one, and the QR code of a clip.

import { api, wordsOf } from "./api.js";
import { by, kept, make } from "./elements.js";
import { t } from "./strings.js";

/** Show a dialog; resolves when it is closed, with what it was closed by. */
export function ask(id) {
  const dialog = by(id);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

/** Ask in a dialog until the answer is right, or nobody answers; check(text) raises where it is not. */
function askUntilRight(id, check, wrong) {
  const dialog = by(id);
  const form = dialog.querySelector("form");
  const input = dialog.querySelector("input");
  const said = dialog.querySelector(".wrong");
  input.value = said.textContent = "";
  return new Promise((resolve) => {
    const submit = async (event) => {
      event.preventDefault();
      try {
        await check(input.value);
        finish(true);
      } catch (error) {
        said.textContent = [401, 403].includes(error.status) ? wrong() : wordsOf(error);
        input.value = "";
        input.focus();
      }
    };
    const closed = () => finish(false);
    const finish = (answer) => {
      form.removeEventListener("submit", submit);
      dialog.removeEventListener("close", closed);
      dialog.close();
      resolve(answer);
    };
    form.addEventListener("submit", submit);
    dialog.addEventListener("close", closed);
    if (!dialog.open) dialog.showModal();
    input.focus();
  });
}

/** Whether somebody gave the PIN. */
export const askPin = () => askUntilRight("pin", (pin) => api.unlock(pin), () => t("pin.wrong"));

/** Whether somebody gave the token. */
export const askToken = () => askUntilRight("token", (token) => api.session(token), () => t("token.wrong"));

/** Show the address under which a clip can be fetched by others of the local net; linked: whether this browser may go there. */
export async function share(video, linked) {
  const { url, qr_svg: drawing } = await api.share(video.id);
  const whole = drawing.includes("xmlns=") ? drawing : drawing.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"');
  by("qr").src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(whole)}`;
  by("share-url").textContent = url;
  if (linked) by("share-url").href = url;
  await ask("share");
}

const LOOKS = { theme: ["auto", "light", "dark"], contrast: ["auto", "more"], motion: ["auto", "less"] };

/** Make the page look as was chosen here before. */
export function applyLooks() {
  for (const name of Object.keys(LOOKS)) document.documentElement.dataset[name] = kept.get(name) ?? "auto";
}

/** Show the settings: looks, and the model with its recipe and decoder. */
export async function showSettings(models, chosen, changed) {
  const draw = () => {
    const model = models.find(({ id }) => id === chosen.model).edgereel;
    const recipes = model.recipes.map(({ name, steps }) => [name, t("settings.recipe.one", { name, steps })]);
    by("choices").replaceChildren(
      ...Object.entries(LOOKS).map(([name, values]) =>
        select(name, values.map((value) => [value, t(`settings.${name}.${value}`)]), kept.get(name) ?? "auto", (value) => {
          kept.set(name, value);
          applyLooks();
        })),
      select("model", models.map(({ id }) => [id, id]), chosen.model, (id) => {
        Object.assign(chosen, { model: id, recipe: "", decoder: "" });
        changed();
        draw();
        by("choice-model").focus();
      }, 2),
      select("recipe", own(recipes), chosen.recipe, (name) => { chosen.recipe = name; }, 3),
      select("decoder", own(model.decoders.map((name) => [name, name])), chosen.decoder, (name) => { chosen.decoder = name; }, 3),
    );
  };
  draw();
  await ask("settings");
}

const own = (choices) => [["", t("settings.default")], ...choices];

function select(name, choices, value, change, least = 1) {
  const list = make("select", { id: `choice-${name}` }, ...choices.map(([key, text]) => make("option", { value: key, textContent: text, selected: key === value })));
  list.addEventListener("change", () => change(list.value));
  return make("div", { hidden: choices.length < least }, make("label", { htmlFor: list.id, textContent: t(`settings.${name}`) }), list);
}

for (const digit of ["1", "2", "3", "4", "5", "6", "7", "8", "9", "", "0", "⌫"]) {
  const key = digit ? make("button", { type: "button", textContent: digit }) : make("span");
  if (digit === "⌫") key.dataset.tLabel = "pin.delete";
  key.addEventListener("click", () => {
    const input = by("pin-text");
    input.value = digit === "⌫" ? input.value.slice(0, -1) : input.value + digit;
  });
  by("keys").append(key);
}
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("[data-close]")?.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", ({ target }) => { if (target === dialog) dialog.close(); }); // beside it
}
export const closeDialogs = () => document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
