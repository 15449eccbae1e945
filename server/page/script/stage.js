// The screen: a finished clip, a video on its way with its preview pictures, the live film, or a card with words.

import { content } from "./api.js";
import { by, drawing, make, still } from "./elements.js";
import { isUnfinished, jobs } from "./jobs.js";
import { find, number, t } from "./strings.js";

const screen = by("screen");
const film = by("film");
const preview = by("preview");
const canvas = by("picture");
const glow = by("glow").getContext("2d");
const GLOW_EVERY = 200; // ms

/** Stages of the server that are one to those who wait. */
const STAGES = { check: "open", fit: "open", "encode pictures": "picture", tiles: "decode", stills: "write" };

let shown = null;
let state = "empty";
let actionsOf = () => [];
let showing = () => {};
let over = ""; // words over a clip

export const stage = {
  get id() { return shown; },
  get state() { return state; },

  /** actions(video) returns what one can do with a video: [{ text, act | href, name }]. */
  onActions(callback) { actionsOf = callback; },
  onShow(callback) { showing = callback; },

  /** Show a video, whatever its state, and follow it. */
  show(id) {
    shown = id;
    over = "";
    preview.hidden = true;
    film.loop = true;
    draw();
    showing(id);
  },

  /** Show a card and nothing else. */
  card(words = t("empty")) {
    shown = null;
    enter("empty", words);
    caption("", "", []);
    showing(null);
  },

  /** Make room for the live film; it is drawn on the canvas that is returned. */
  live(words) {
    shown = null;
    enter("live", words);
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    caption("", t("live.on"), []);
    showing(null);
    return canvas;
  },

  /** Scroll to the screen, where the page is longer than a telephone. */
  bringIntoView() { screen.scrollIntoView({ block: "nearest", behavior: still() ? "instant" : "smooth" }); },

  /** Give the screen the shape of its picture. */
  shape(width, height) {
    screen.style.setProperty("--w", width);
    screen.style.setProperty("--h", height);
  },

  /** Words over what is shown. */
  say(words) { by("card").textContent = over = words; },
  caption(text) { by("said").textContent = text; },

  /** Play one clip once with words over it, for a show of many; resolves when it is over. */
  async play(id, words, signal) {
    this.show(id);
    this.say(words);
    film.loop = false;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, still() ? 8000 : 20000);
      film.addEventListener("ended", resolve, { once: true, signal });
      film.addEventListener("error", resolve, { once: true, signal });
      signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
    });
  },

  /** Draw again, as after a change of language. */
  draw,
};

function draw() {
  const video = jobs.get(shown);
  if (!video) return state === "live" ? undefined : stage.card();
  const { seed, width, height } = video;
  stage.shape(width, height);
  const facts = { seed, width, height, seconds: number(Number(video.seconds), 1) };
  if (video.status === "completed") {
    enter("film", over);
    const source = content(video.id);
    if (film.ended) film.play().catch(() => {});
    if (film.getAttribute("src") !== source) {
      film.poster = content(video.id, "thumbnail");
      film.src = source;
      if (!still()) film.play().catch(() => {});
    }
    film.setAttribute("aria-label", video.prompt);
    return caption(video.prompt, t("facts", facts), actionsOf(video));
  }
  if (isUnfinished(video)) {
    const url = jobs.previews.get(video.id);
    if (url) preview.src = url;
    preview.hidden = !url;
    preview.alt = video.prompt;
    enter(url ? "sampling" : "waiting", url ? "" : stageWords(video));
    progress(video);
    return caption(video.prompt, stageWords(video), actionsOf(video));
  }
  const words = video.error?.code === "cancelled" ? t("cancelled") : t("failed", { message: video.error?.message ?? "" });
  enter("failed", words);
  return caption(video.prompt, width ? t("facts.waiting", facts) : "", actionsOf(video));
}

/** Where a video is, in words. */
export function stageWords(video) {
  if (video.status === "queued") {
    const ahead = video.queue_position ?? 0;
    return ahead ? t("queue.ahead", { n: ahead }) : t("queue.next");
  }
  if (!video.stage) return t("stage.open");
  const words = find(`stage.${STAGES[video.stage] ?? video.stage}`, { step: number(video.step), total: number(video.total) });
  return words ?? t("stage.other");
}

function enter(next, words) {
  state = screen.dataset.state = next;
  if (next !== "film") {
    film.pause();
    film.removeAttribute("src");
  }
  film.hidden = next !== "film";
  if (next !== "sampling") preview.hidden = true;
  if (["waiting", "empty", "failed"].includes(next)) glow.clearRect(0, 0, 24, 24);
  canvas.hidden = next !== "live";
  by("card").textContent = words;
  by("play").hidden = next !== "film";
  by("steps").hidden = !["waiting", "sampling"].includes(next);
}

function progress(video) {
  by("steps").style.setProperty("--done", `${video.progress}%`);
  by("steps").setAttribute("aria-valuenow", video.progress);
  by("steps").setAttribute("aria-valuetext", stageWords(video));
}

function caption(said, facts, actions) {
  by("said").textContent = said;
  by("facts").textContent = facts;
  const names = actions.map(({ name }) => name).join();
  if (by("actions").dataset.names === `${shown}${names}${document.documentElement.lang}`) return; // so that focus stays
  by("actions").dataset.names = `${shown}${names}${document.documentElement.lang}`;
  const held = by("actions").contains(document.activeElement);
  by("actions").replaceChildren(...actions.map(({ name, text, act, href, icon }) => {
    const control = href ? make("a", { href, className: "button", download: "" }) : make("button", { type: "button", onclick: act });
    control.dataset.action = name;
    if (icon) {
      control.classList.add("bare");
      control.title = text;
      control.setAttribute("aria-label", text);
    }
    control.append(icon ? drawing(icon) : text);
    return control;
  }));
  if (held) by("actions").firstElementChild?.focus();
}

function drawPlay() {
  by("play").setAttribute("aria-label", t(film.paused ? "play" : "pause"));
  by("play").dataset.paused = film.paused;
}

/** The light that the picture throws on the wall: the picture in 14 of 24 pixels, blurred; enlarging it costs nothing more. */
function shine() {
  const source = state === "film" ? film : state === "live" ? canvas : preview;
  const isThere = ["film", "live", "sampling"].includes(state) && (source.videoWidth ?? source.naturalWidth ?? source.width) > 0;
  if (document.visibilityState === "visible" && isThere) {
    const shade = getComputedStyle(document.documentElement).getPropertyValue("--shade");
    glow.filter = `blur(3px) saturate(1.8) brightness(${shade})`;
    glow.clearRect(0, 0, 24, 24);
    glow.drawImage(source, 5, 5, 14, 14);
  }
  setTimeout(shine, still() ? 1500 : GLOW_EVERY);
}

for (const name of ["play", "pause", "loadeddata"]) film.addEventListener(name, drawPlay);
by("play").addEventListener("click", () => (film.paused ? film.play() : film.pause()));
jobs.on("change", ({ video }) => { if (video.id === shown) draw(); });
jobs.on("preview", ({ id }) => { if (id === shown) draw(); });
jobs.on("drop", ({ id }) => { if (id === shown) stage.card(); });
shine();
