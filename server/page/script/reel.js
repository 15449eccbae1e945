// The strip of film below: what waits, then what is done, the newest first.

import { api, content, wordsOf } from "./api.js";
import { announce, by, make } from "./elements.js";
import { jobs } from "./jobs.js";
import { stage, stageWords } from "./stage.js";
import { t } from "./strings.js";

const items = { queue: new Map(), gallery: new Map() };

/** Draw the strip again; frames that stay keep their element, so that focus and pictures stay. */
export function drawReel() {
  order("queue", jobs.waiting, drawWaiting);
  order("gallery", jobs.clips, drawClip);
  by("queue").hidden = !jobs.waiting.length;
  by("gallery").hidden = !jobs.clips.length;
  by("nothing").hidden = !jobs.loaded || jobs.waiting.length + jobs.clips.length > 0;
  by("more").hidden = !jobs.hasMore;
}

function order(name, videos, drawItem) {
  const list = by(name);
  const there = items[name];
  const ids = new Set(videos.map(({ id }) => id));
  for (const [id, item] of there) {
    if (ids.has(id)) continue;
    if (item.contains(document.activeElement)) by("reel").focus();
    item.remove();
    there.delete(id);
  }
  videos.forEach((video, index) => {
    const item = there.get(video.id) ?? make("li");
    there.set(video.id, item);
    drawItem(item, video);
    if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
  });
}

function frame(item, video) {
  if (!item.firstElementChild) {
    const picture = make("img", { alt: "", loading: "lazy", decoding: "async" });
    item.append(make("button", { type: "button", className: "frame", onclick: () => { stage.show(video.id); stage.bringIntoView(); } }, picture));
  }
  const button = item.firstElementChild;
  if (stage.id === video.id) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
  return [button, button.firstElementChild];
}

function drawClip(item, video) {
  const [button, picture] = frame(item, video);
  button.setAttribute("aria-label", t("gallery.show", { prompt: video.prompt }));
  button.title = video.prompt;
  if (!picture.src) picture.src = content(video.id, "thumbnail");
}

function drawWaiting(item, video) {
  const [button, picture] = frame(item, video);
  const state = stageWords(video);
  button.setAttribute("aria-label", t("queue.item", { prompt: video.prompt, state }));
  button.title = video.prompt;
  const url = jobs.previews.get(video.id);
  picture.hidden = !url;
  if (url) picture.src = url;
  if (!item.querySelector(".state")) {
    button.append(make("span", { className: "state" }), make("span", { className: "bar" }));
    item.append(make("button", { type: "button", className: "stop", textContent: "×", onclick: () => cancel(video.id) }));
  }
  item.querySelector(".state").textContent = state;
  item.querySelector(".bar").style.setProperty("--done", `${video.progress}%`);
  item.querySelector(".stop").setAttribute("aria-label", t("queue.cancel", { prompt: video.prompt }));
}

/** End a job, and say it. */
export async function cancel(id) {
  try {
    jobs.take(await api.cancel(id));
    announce(t("news.cancelled"));
  } catch (error) {
    by("wrong").textContent = wordsOf(error);
  }
}

let waiting = false;
function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawReel();
  });
}
["change", "drop", "preview", "loaded"].forEach((name) => jobs.on(name, soon));
by("more").addEventListener("click", () => jobs.more().catch((error) => { by("wrong").textContent = wordsOf(error); }));
