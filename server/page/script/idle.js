// A booth's screen that nobody touches: it forgets who was there, and shows what it made until somebody comes.

import { jobs } from "./jobs.js";
import { stage } from "./stage.js";

const TOUCHES = ["pointerdown", "keydown", "wheel", "input"];
const MOST_CLIPS = 12;
const LOOK_EVERY = 5000; // ms, for a first clip

let timer = null;
let show = null;
let waking = false;

/** Call reset after so many seconds without a touch, then play clips in turn; busy() puts it off. */
export function watchIdle(seconds, { reset, busy, words, card }) {
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (busy()) return wait();
      reset();
      begin(words, card);
    }, seconds * 1000);
  };
  for (const name of TOUCHES) {
    addEventListener(name, (event) => {
      waking = Boolean(show) || (waking && name !== "pointerdown");
      if (show && event.cancelable && name !== "input") event.preventDefault();
      end();
      wait();
    }, { capture: true, passive: false });
  }
  // The touch that wakes it must not press what comes to light under the finger.
  addEventListener("click", (event) => {
    if (waking && event.detail) {
      event.preventDefault();
      event.stopPropagation();
    }
    waking = false;
  }, { capture: true });
  wait();
}

async function begin(words, card) {
  end();
  show = new AbortController();
  const { signal } = show;
  document.documentElement.dataset.attract = "true";
  for (let turn = 0; !signal.aborted; turn += 1) {
    const clips = jobs.clips.slice(0, MOST_CLIPS);
    if (clips.length) await stage.play(clips[turn % clips.length].id, words(), signal);
    else {
      card();
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY));
    }
  }
}

function end() {
  if (!show) return;
  show.abort();
  show = null;
  delete document.documentElement.dataset.attract;
  const [newest] = jobs.clips;
  if (newest) stage.show(newest.id);
  else stage.card();
}
