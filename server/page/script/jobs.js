// Every video that the page knows, as the server tells it: one list, and who wants to hear of changes.

import { api, listen } from "./api.js";

const UNFINISHED = ["queued", "in_progress"];
const AT_ONCE = 24;

class Jobs extends EventTarget {
  #videos = new Map();
  previews = new Map();
  own = new Set();
  #most = 2 * AT_ONCE; // clips that are shown: a booth's page is open for days
  #hasOlder = false;
  loaded = false;

  get(id) { return this.#videos.get(id); }

  /** Queued and running ones, in the order in which they will be made. */
  get waiting() {
    return this.#all.filter(isUnfinished).sort((one, two) =>
      (two.status === "in_progress") - (one.status === "in_progress")
      || (one.queue_position ?? 0) - (two.queue_position ?? 0) || one.created_at - two.created_at);
  }

  /** Finished ones that can be shown, the newest first. */
  get clips() { return this.#done.slice(0, this.#most); }

  get hasMore() { return this.#hasOlder || this.#done.length > this.#most; }

  get #done() {
    return this.#all.filter((video) => video.status === "completed")
      .sort((one, two) => two.completed_at - one.completed_at || two.created_at - one.created_at);
  }

  get #all() { return [...this.#videos.values()]; }

  /** Take what the server says of a video. */
  take(video) {
    const before = this.#videos.get(video.id);
    this.#videos.set(video.id, video);
    if (!isUnfinished(video)) this.previews.delete(video.id);
    this.#tell("change", { video, before });
  }

  drop(id) {
    if (!this.#videos.delete(id)) return;
    this.previews.delete(id);
    this.#tell("drop", { id });
  }

  /** Read the newest ones again; those that are gone meanwhile are dropped. */
  async refresh() {
    const page = await api.videos();
    const there = new Set(page.data.map((video) => video.id));
    const oldest = Math.min(...page.data.map((video) => video.created_at));
    for (const video of this.#all) {
      if (!there.has(video.id) && (!page.has_more || video.created_at > oldest)) this.drop(video.id);
    }
    page.data.forEach((video) => this.take(video));
    if (!this.loaded) this.#end(page);
    this.loaded = true;
    this.#tell("loaded", {});
  }

  /** Show older ones. */
  async more() {
    this.#most += AT_ONCE;
    if (!this.#hasOlder || this.#done.length >= this.#most) return this.#tell("loaded", {});
    const page = await api.videos(this.lastId);
    page.data.forEach((video) => this.take(video));
    this.#end(page);
    this.#tell("loaded", {});
  }

  #end(page) {
    this.#hasOlder = page.has_more;
    this.lastId = page.last_id;
  }

  /** Follow the server's events for as long as the page is open. */
  follow({ back, lost }) {
    listen({
      video: (video) => this.take(video),
      preview: (preview) => {
        this.previews.set(preview.id, preview.url);
        this.#tell("preview", preview);
      },
      deleted: ({ id }) => this.drop(id),
      back: () => { back(); this.refresh().catch(lost); },
      lost,
    });
  }

  on(name, listener) { this.addEventListener(name, (event) => listener(event.detail)); }

  #tell(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }
}

export const isUnfinished = (video) => UNFINISHED.includes(video.status);
export const jobs = new Jobs();
