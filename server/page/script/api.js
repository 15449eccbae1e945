// The server's HTTP interface, and errors in the page's words.

import { find, t } from "./strings.js";

/** What the server, or the lack of one, answered: status 0 without a server. */
export class ApiError extends Error {
  constructor(status, { message, code, param } = {}, wait = null) {
    super(message ?? "");
    Object.assign(this, { status, code, param, wait });
  }

  /** The error for people. What the server says about a prompt or a setting is best said by the server. */
  get words() {
    if (this.status === 0) return t("error.network");
    if (this.code === "prompt_refused") return t("error.refused");
    if (this.code === "busy") return t("live.busy");
    if (this.status === 429) return this.code === "too_many_tries" ? t("error.many") : t("error.full", { seconds: this.wait ?? 5 });
    if (this.status === 507) return t("error.disk");
    return this.message || t("error.other", { status: this.status });
  }
}

let locked = () => {};
/** Call back when the server wants a token. */
export const onLocked = (callback) => { locked = callback; };

async function call(path, { method = "GET", json, form, headers = {} } = {}) {
  const body = json === undefined ? form : JSON.stringify(json);
  if (json !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body });
  } catch {
    throw new ApiError(0);
  }
  const data = await answer.json().catch(() => null);
  if (answer.ok) return data;
  if (answer.status === 401 && path !== "/v1/session") locked();
  throw new ApiError(answer.status, data?.error, answer.headers.get("Retry-After"));
}

/** A key that makes a request safe to repeat. crypto.randomUUID is missing where the page is not of this machine. */
const key = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

const post = (path, options) => call(path, { method: "POST", ...options });
const video = (id) => `/v1/videos/${encodeURIComponent(id)}`;

export const content = (id, variant = "video") => `${video(id)}/content?variant=${variant}`;
export const download = (id) => `${video(id)}/content?variant=video&download=1`;

export const api = {
  models: () => call("/v1/models"),
  presets: () => call("/v1/presets"),
  settings: () => call("/v1/settings"),
  videos: (after, limit = 24) => call(`/v1/videos?order=desc&limit=${limit}${after ? `&after=${encodeURIComponent(after)}` : ""}`),
  cancel: (id) => post(`${video(id)}/cancel`),
  remove: (id) => call(video(id), { method: "DELETE" }),
  remix: (id, prompt) => post(`${video(id)}/remix`, { json: { prompt } }),
  share: (id) => call(`${video(id)}/share`),
  unlock: (pin) => post("/v1/settings/unlock", { json: { pin } }),
  session: (token) => post("/v1/session", { json: { token } }),

  /** Ask for a video; with a picture as a form, else as JSON. */
  create(fields, picture) {
    const headers = { "Idempotency-Key": key() };
    if (!picture) return post("/v1/videos", { json: fields, headers });
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    form.append("input_reference", picture, picture.name ?? "picture.jpg");
    return post("/v1/videos", { form, headers });
  },

  verify(file) {
    const form = new FormData();
    form.append("file", file, file.name);
    return post("/v1/verify", { form });
  },
};

/** Hear of every change of every video, again after the server was away. */
export function listen(heard) {
  const source = new EventSource("/v1/events");
  const tell = (name) => source.addEventListener(name, (event) => heard[name](JSON.parse(event.data)));
  ["video", "preview", "deleted"].forEach(tell);
  source.onopen = () => heard.back();
  source.onerror = () => {
    heard.lost();
    if (source.readyState === EventSource.CLOSED) setTimeout(() => listen(heard), 3000); // it gave up, as after a 401
  };
}

/** What went wrong, for people; what is not the server's is the page's own fault and is told to its developers. */
export function wordsOf(error) {
  if (error instanceof ApiError) return error.words;
  console.error(error);
  return find("error.other", { status: error.name });
}
