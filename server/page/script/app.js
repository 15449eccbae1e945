// The page: what was tapped or typed becomes requests, what the server says becomes pictures.

import { ApiError, api, download, onLocked, wordsOf } from "./api.js";
import { applyLooks, askPin, askToken, closeDialogs, share, showSettings } from "./dialogs.js";
import { announce, by, kept, make } from "./elements.js";
import { watchIdle } from "./idle.js";
import { isUnfinished, jobs } from "./jobs.js";
import { LiveFilm } from "./live.js";
import { options } from "./options.js";
import { prompt } from "./prompt.js";
import { cancel, drawReel } from "./reel.js";
import { stage } from "./stage.js";
import { language, preferred, speak, t } from "./strings.js";
import { drawReport, forgetReport } from "./verify.js";

const SAY_AFTER = 350; // ms without a key before a live film gets the new prompt

let settings, models, presets;
const chosen = { model: "", recipe: "", decoder: "" };
let again = null; // the video that the next one repeats with another prompt
let mode = "clip";
let live = null;
let unlocked = false;
let asking = false;

const model = () => models.find(({ id }) => id === chosen.model);
const wrong = (text) => { by("wrong").textContent = text; };

// ---- making ----

async function submit(event) {
  event.preventDefault();
  wrong("");
  if (mode === "live") return live ? live.stop() : startLive();
  if (!prompt.text) return wrong(t("prompt.empty"));
  by("go").disabled = true;
  try {
    const video = again ? await api.remix(again.id, prompt.text) : await api.create({ ...request(), prompt: prompt.text }, options.picture);
    jobs.own.add(video.id);
    jobs.take(video);
    stage.show(video.id);
    stage.bringIntoView();
    announce(t("news.queued"));
  } catch (error) {
    wrong(error instanceof RangeError ? error.message : wordsOf(error));
    if (error.param === "prompt") prompt.focus();
  } finally {
    by("go").disabled = false;
  }
}

function request() {
  const fields = { model: chosen.model, ...options.fields() };
  if (chosen.recipe) fields.recipe = chosen.recipe;
  if (chosen.decoder) fields.decoder = chosen.decoder;
  return fields;
}

function repeat(video) {
  again = video;
  setMode("clip");
  prompt.text = video.prompt;
  drawAgain();
  prompt.focus();
}

function drawAgain() {
  by("again").hidden = !again;
  if (again) by("again").firstElementChild.textContent = t("again", { seed: again.seed });
  document.querySelector(".options").inert = Boolean(again); // a remix keeps every setting
  drawGo();
}

function actionsOf(video) {
  if (isUnfinished(video)) return [{ name: "cancel", text: t("cancel"), act: () => cancel(video.id) }];
  const repeatIt = { name: "again", text: t("again.do"), act: () => repeat(video) };
  const removeIt = { name: "delete", text: t("delete"), icon: "M5 7h14M10 4h4M7 7l1 13h8l1-13M10.5 10.5v6M13.5 10.5v6", act: () => remove(video) };
  const mayRemove = !settings.kiosk || unlocked;
  if (video.status !== "completed") return [{ ...repeatIt, text: t("retry") }, ...(mayRemove ? [removeIt] : [])];
  return [
    repeatIt,
    ...(settings.share ? [{ name: "share", text: t("share.do"), act: () => share(video, !settings.kiosk).catch((error) => wrong(wordsOf(error))) }] : []),
    ...(settings.kiosk ? [] : [{ name: "download", text: t("download"), icon: "M12 4v11m-5-4.5 5 5 5-5M5 20h14", href: download(video.id) }]),
    ...(mayRemove ? [removeIt] : []),
  ];
}

async function remove(video) {
  try {
    await api.remove(video.id);
    jobs.drop(video.id);
    announce(t("news.deleted"));
    by("reel").focus();
  } catch (error) {
    wrong(wordsOf(error));
  }
}

// ---- live ----

function startLive() {
  if (!prompt.text) return wrong(t("prompt.empty"));
  let fields;
  try {
    fields = options.fields();
  } catch (error) {
    return wrong(error.message);
  }
  const canvas = stage.live(t("live.starting"));
  stage.caption(prompt.text);
  stage.bringIntoView();
  const refused = (message) => wrong(new ApiError(400, message).words);
  live = new LiveFilm(canvas, {
    started: ({ width, height }) => stage.shape(width, height),
    shown: () => stage.say(""),
    prompt: (message) => {
      wrong("");
      stage.caption(message.prompt);
      announce(t("live.took", { prompt: message.prompt }));
    },
    refused,
    error: refused,
    ended: () => {
      live = null;
      drawGo();
      announce(t("live.ended"));
      if (stage.state === "live") showNewest();
    },
  });
  live.start({ prompt: prompt.text, model: chosen.model, seed: fields.seed, size: fields.size });
  drawGo();
}

let saying = null;
function sayLive() {
  clearTimeout(saying);
  saying = setTimeout(() => { if (live && prompt.text) live.say({ type: "prompt", prompt: prompt.text }); }, SAY_AFTER);
}

function setMode(next) {
  if (next !== "live") live?.stop();
  mode = next;
  for (const button of by("modes").children) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
  by("lengths").hidden = by("start").dataset.off = mode === "live";
  if (mode === "live") {
    again = null;
    drawAgain();
  }
  drawGo();
}

function drawGo() {
  const key = mode === "live" ? (live ? "go.stop" : "go.live") : again ? "go.again" : "go";
  by("go").firstElementChild.textContent = t(key);
  by("go").classList.toggle("on", Boolean(live));
}

// ---- the page ----

function showNewest() {
  const [first] = [...jobs.waiting, ...jobs.clips];
  if (first) stage.show(first.id);
  else stage.card();
}

function useModel() {
  const facts = model().edgereel;
  prompt.use(facts);
  options.use(facts, presets, settings);
  by("modes").hidden = !(facts.live && settings.live);
  if (by("modes").hidden) setMode("clip");
}

async function setLanguage(code) {
  await speak(code);
  for (const button of by("languages").children) button.setAttribute("aria-pressed", String(button.lang === code));
  prompt.render();
  options.render();
  drawAgain();
  drawReel();
  stage.draw();
  drawReport();
}

async function drawLanguages() {
  const names = await Promise.all(settings.languages.map(async (code) => (await (await fetch(`/page/strings/${code}.json`)).json())["language.name"]));
  by("languages").replaceChildren(...settings.languages.map((code, index) => {
    const button = make("button", { type: "button", lang: code, title: names[index], textContent: code.toUpperCase() });
    button.setAttribute("aria-label", names[index]);
    button.setAttribute("aria-pressed", String(code === language));
    button.addEventListener("click", () => {
      if (!settings.kiosk) kept.set("language", code);
      setLanguage(code);
    });
    return button;
  }));
  by("languages").hidden = settings.languages.length < 2;
}

async function openSettings() {
  if (settings.kiosk && settings.pin_set && !unlocked && !(await askPin())) return;
  unlocked = true;
  stage.draw();
  await showSettings(models, chosen, useModel);
}

function route() {
  const verifying = location.hash === "#verify";
  by("verify").hidden = !verifying;
  by("make").hidden = verifying;
  if (!verifying) forgetReport();
}

function firstLanguage() {
  const stored = settings.kiosk ? null : kept.get("language");
  return settings.languages.includes(stored) ? stored : preferred(settings.languages);
}

/** Forget whoever was here. */
function forget() {
  closeDialogs();
  live?.stop();
  again = null;
  unlocked = false;
  wrong("");
  location.hash = "";
  prompt.reset();
  options.reset();
  setMode("clip");
  drawAgain();
  setLanguage(firstLanguage());
}

async function load() {
  ({ data: models } = await api.models()); // first: until a worker knows its models, the settings do not
  [settings, { data: presets }] = await Promise.all([api.settings(), api.presets()]);
  chosen.model = (models.find(({ edgereel }) => edgereel.default) ?? models[0]).id;
  by("brand").textContent = settings.brand?.title || "edgereel";
  document.documentElement.dataset.kiosk = settings.kiosk;
  await speak(firstLanguage());
  await drawLanguages();
  useModel();
  await jobs.refresh();
  showNewest();
  jobs.follow({
    back: () => { by("machine").textContent = t("machine"); delete by("machine").dataset.lost; },
    lost: () => { by("machine").textContent = t("machine.lost"); by("machine").dataset.lost = "true"; },
  });
  if (settings.kiosk && settings.idle_seconds) {
    const busy = () => isMaking() && !live;
    watchIdle(settings.idle_seconds, { reset: forget, busy, words: () => t("attract"), card: () => stage.card(t("attract")) });
  }
  document.documentElement.dataset.ready = "true";
}

const isMaking = () => jobs.waiting.some(({ id }) => jobs.own.has(id));

async function begin() {
  applyLooks();
  await speak(preferred(["en", "de"]));
  route();
  if (stage.state === "empty") stage.card(t("stage.open"));
  try {
    await load();
  } catch (error) {
    stage.card(wordsOf(error));
    if (error.status !== 401) setTimeout(begin, 3000);
  }
}

onLocked(async () => {
  if (asking) return;
  asking = true;
  const entered = await askToken();
  asking = false;
  if (entered) begin();
});
stage.onActions(actionsOf);
stage.onShow(drawReel);
prompt.onChange(sayLive);
options.onPicture(wrong);
jobs.on("change", ({ video, before }) => {
  if (!jobs.own.has(video.id) || !before || before.status === video.status) return;
  if (video.status === "completed") announce(t("news.completed"));
  else if (video.status === "in_progress") announce(t("news.started"));
});
by("desk").addEventListener("submit", submit);
by("modes").addEventListener("click", ({ target }) => { if (target.dataset.mode) setMode(target.dataset.mode); });
by("again").querySelector("button").addEventListener("click", () => {
  again = null;
  drawAgain();
  prompt.focus();
});
by("to-settings").addEventListener("click", openSettings);
addEventListener("hashchange", route);
begin();
