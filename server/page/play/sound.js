// What is heard: music below all of a story, which gives way to what is spoken.

import { by, kept } from "../script/elements.js";

const music = new Audio();
const voice = new Audio();
let facts = null;
let on = kept.get("sound") !== "off";
let heard = () => {};

music.loop = true;

const address = (number) => `/v1/play/sounds/${facts.show}/${number}`;

/** Play, where the browser lets it: it does once somebody has pressed something. */
const play = (audio) => { audio.play().catch(() => {}); };

function level() {
  music.muted = voice.muted = !on;
  if (facts?.music) music.volume = Math.min(1, facts.music.volume * (voice.paused || voice.ended ? 1 : facts.music.ducked));
}

export const sound = {
  /** Take the facts of a story: which of its sounds is the music, and how loud. */
  use(story) {
    if (facts?.show === story.show) return;
    facts = story;
    by("sound").hidden = !story.has_sound;
    if (story.music) music.src = address(story.music.sound);
    level();
    heard(on);
  },

  begin() {
    voice.pause();
    if (!facts?.music) return;
    music.currentTime = 0;
    level();
    play(music);
  },

  /** A narration: { sound, volume }. */
  say({ sound: number, volume }) {
    voice.src = address(number);
    voice.volume = Math.min(1, volume);
    play(voice);
    level();
  },

  hush() { voice.pause(); level(); },

  end() { voice.pause(); music.pause(); },

  toggle() {
    on = !on;
    kept.set("sound", on ? "on" : "off");
    level();
    heard(on);
  },

  onChange(callback) { heard = callback; },
};

for (const name of ["playing", "pause", "ended"]) voice.addEventListener(name, level);
let resume = false;
addEventListener("visibilitychange", () => {
  if (document.hidden) {
    resume = !music.paused;
    music.pause();
    voice.pause();
  } else if (resume) play(music);
});
