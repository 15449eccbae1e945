// A story played live: its pictures come over a WebSocket, what is chosen goes back.

import { announce, by, kept, make } from "../script/elements.js";
import { LiveFilm } from "../script/live.js";
import { language, preferred, speak, t } from "../script/strings.js";
import { sound } from "./sound.js";

const HERE_EVERY = 2000; // ms between two signs that somebody is here
const AGAIN_AFTER = 3000; // ms, for a machine that does not answer

const screen = by("screen");
const canvas = by("picture");
let story = null;
let film = null;
let way = []; // what was chosen
let cues = new Map(); // what changes with which picture
let end = null; // the message that says which picture is the last one, and what follows
let shown = -1;
let chosenAt = null;
let draw = () => {}; // what is below the screen, again in another language
let told = 0;
let byKeys = false; // whether the page is used by keyboard: then the focus follows what is new

// ---- the screen ----

const say = (text) => { by("card").textContent = text; };

function progress(done, total) {
  by("steps").hidden = total === 0;
  if (!total) return;
  by("steps").style.setProperty("--done", `${(100 * done) / total}%`);
  by("steps").setAttribute("aria-valuenow", String(Math.round((100 * done) / total)));
}

/** Below the screen: words, what may be chosen, and what can be done. */
function foot({ said = "", choices = [], actions = [] }) {
  draw = () => {
    by("said").textContent = typeof said === "function" ? said() : said;
    by("choices").replaceChildren(...choices.map((text, index) => {
      const button = make("button", { type: "button", lang: story.language, textContent: text, "data-number": String(index + 1) });
      button.addEventListener("click", () => choose(index + 1));
      return make("li", {}, button);
    }));
    by("actions").replaceChildren(...actions.map(({ key, act, main = false, name }) => {
      const button = make("button", { type: "button", className: main ? "go" : "", textContent: t(key), "data-action": name });
      button.addEventListener("click", act);
      return button;
    }));
    if (byKeys) (by("choices").querySelector("button") ?? by("actions").querySelector("button"))?.focus();
  };
  draw();
}

// ---- the visit ----

function hangUp() {
  const visit = film;
  film = null;
  visit?.stop();
}

function begin(choices = []) {
  hangUp();
  by("wrong").textContent = "";
  way = [...choices];
  cues = new Map();
  end = null;
  shown = -1;
  sound.begin();
  foot({});
  const visit = new LiveFilm(canvas, {
    started: (facts) => {
      story = { ...story, ...facts };
      screen.style.setProperty("--w", facts.width);
      screen.style.setProperty("--h", facts.height);
      sound.use(story);
    },
    way: ({ choices: chosen, picture }) => {
      way = chosen;
      visit.from = picture;
      end = null;
      cues = new Map();
    },
    cue: (cue) => cues.set(cue.picture, cue),
    making: ({ done, total }) => {
      announce(t("story.making"));
      progress(done, total);
    },
    waits: close,
    ends: close,
    failed: ({ message }) => stopped(t("story.failed", { message })),
    refused: ({ code, message }) => {
      if (code === "film_failed" || code === "not_open") return wrong(message);
      return stopped(code === "busy" ? t("story.busy") : t("story.failed", { message }));
    },
    film: ({ url }) => save(url),
    shown: show,
    ended: () => { if (film === visit) leave(); },
  }, "/v1/play");
  film = visit;
  visit.start(choices.length ? { choices } : {});
}

function show(number) {
  if (shown < 0 || chosenAt !== null) {
    canvas.hidden = false;
    screen.dataset.state = "live";
    say("");
    progress(0, 0);
    if (chosenAt !== null) performance.measure("choice", { start: chosenAt, end: performance.now() });
    chosenAt = null;
  }
  shown = number;
  const cue = cues.get(number);
  if (cue) {
    cues.delete(number);
    if (cue.card) announce(cue.card);
    if (cue.caption !== undefined) {
      say(cue.caption);
      by("card").lang = story.language;
    }
    if (cue.sound) sound.say(cue.sound);
    if (cue.choices) foot({ choices: cue.choices });
  }
  if (end) close(end);
}

/** Do what comes at the end of a way, once its last picture was shown. */
function close(message) {
  end = message;
  if (shown < message.picture - 1) return;
  end = null;
  if (message.type === "ends") theEnd();
  else announce(t("story.choices"));
}

function choose(number) {
  if (!film || number > by("choices").children.length) return;
  chosenAt = performance.now();
  film.drop();
  sound.hush();
  foot({});
  film.say({ type: "choose", choice: number });
}

function theEnd() {
  announce(t("story.end"));
  sound.end();
  foot({
    said: () => `${t("story.end")}${way.length ? ` · ${t("story.way", { way: way.join(", ") })}` : ""}`,
    actions: [
      { key: "story.save", act: ask, name: "save" },
      { key: "story.again", act: () => begin(), main: true, name: "again" },
    ],
  });
}

function ask() {
  by("wrong").textContent = "";
  by("actions").querySelector("[data-action=save]").disabled = true;
  announce(t("story.saving"));
  film.say({ type: "film" });
}

function save(url) {
  const link = make("a", { href: url, download: "" });
  link.click();
  announce(t("story.saved"));
  draw();
}

function wrong(message) {
  by("wrong").textContent = message;
  draw();
}

/** Say why the story does not go on; the way so far is tried again. */
function stopped(words) {
  const choices = way;
  hangUp();
  progress(0, 0);
  sound.end();
  foot({ actions: [
    { key: "story.retry", act: () => begin(choices), main: true, name: "retry" },
    { key: "story.again", act: () => begin(), name: "again" },
  ] });
  by("wrong").textContent = words;
}

/** The visit is over: by the server, after nobody chose for long, or since the server has gone. */
async function leave() {
  film = null;
  sound.end();
  try {
    await load();
    curtain();
  } catch {
    stopped(t("story.lost"));
  }
}

/** Nobody has begun yet. */
function curtain() {
  canvas.hidden = true;
  screen.dataset.state = "empty";
  progress(0, 0);
  say(story.title);
  by("card").lang = story.language;
  by("wrong").textContent = "";
  foot({ actions: [{ key: "story.begin", act: () => begin(), main: true, name: "begin" }] });
  by("actions").querySelector("button").focus(); // so that a key begins it too
}

// ---- the page ----

async function load() {
  const answer = await fetch("/v1/play/story");
  if (!answer.ok) throw new Error(answer.statusText);
  story = await answer.json();
  by("title").textContent = story.title;
  by("brand").textContent = story.title;
  by("brand").lang = by("title").lang = story.language;
  document.title = story.title;
  screen.style.setProperty("--w", story.width);
  screen.style.setProperty("--h", story.height);
  sound.use(story);
}

async function setLanguage(code) {
  await speak(code);
  for (const button of by("languages").children) button.setAttribute("aria-pressed", String(button.lang === code));
  draw();
}

function drawLanguages() {
  const names = new Intl.DisplayNames(["en"], { type: "language" });
  by("languages").replaceChildren(...story.languages.map((code) => {
    const button = make("button", { type: "button", lang: code, title: names.of(code), textContent: code.toUpperCase() });
    button.setAttribute("aria-label", new Intl.DisplayNames([code], { type: "language" }).of(code));
    button.setAttribute("aria-pressed", String(code === language));
    button.addEventListener("click", () => {
      kept.set("language", code);
      setLanguage(code);
    });
    return button;
  }));
  by("languages").hidden = story.languages.length < 2;
}

async function open() {
  try {
    await load();
  } catch {
    await speak(preferred(["en", "de"])).catch(() => {});
    setTimeout(open, AGAIN_AFTER);
    return;
  }
  const stored = kept.get("language");
  await speak(story.languages.includes(stored) ? stored : preferred(story.languages));
  drawLanguages();
  curtain();
  document.documentElement.dataset.ready = "true";
}

addEventListener("keydown", ({ key, ctrlKey, metaKey, altKey }) => {
  if (/^[1-9]$/.test(key) && !ctrlKey && !metaKey && !altKey) choose(Number(key));
});
for (const name of ["pointerdown", "keydown", "wheel"]) {
  addEventListener(name, () => {
    byKeys = name === "keydown" || (byKeys && name === "wheel");
    if (!film || performance.now() - told < HERE_EVERY) return;
    told = performance.now();
    film.say({ type: "here" });
  }, { passive: true });
}
sound.onChange((on) => by("sound").setAttribute("aria-pressed", String(on)));
by("sound").addEventListener("click", () => sound.toggle());
open();
