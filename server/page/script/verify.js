// "Is it real?": a file's marks in plain words.

import { api, wordsOf } from "./api.js";
import { by, make } from "./elements.js";
import { t } from "./strings.js";

let last = null;

/** Draw the last report again, as after a change of language. */
export function drawReport() {
  if (last) by("report").replaceChildren(...drawing(last));
}

export function forgetReport() {
  last = null;
  by("report").replaceChildren();
  by("suspect").value = "";
}

async function examine(file) {
  if (!file) return;
  last = null;
  by("report").replaceChildren(make("p", { className: "busy", textContent: t("verify.busy") }));
  try {
    last = { name: file.name, report: await api.verify(file) };
    drawReport();
  } catch (error) {
    by("report").replaceChildren(make("p", { className: "wrong", textContent: wordsOf(error) }));
  }
}

function drawing({ name, report }) {
  const kind = answer(report);
  const rows = [["signature", signature(report.signature)], ["watermark", watermark(report.watermark)], ["metadata", metadata(report.metadata)]];
  return [
    make("h2", { className: `answer ${kind}`, textContent: t(`verify.answer.${kind}`) }),
    make("p", { className: "file", textContent: name }),
    make("dl", {}, ...rows.flatMap(([key, text]) => [make("dt", { textContent: t(`verify.${key}`) }), make("dd", { textContent: text })])),
  ];
}

/** The strongest thing that a report says. */
function answer({ altered, generated, signature: { state }, watermark: mark, metadata: said }) {
  const holds = ["valid", "trusted"].includes(state);
  if (altered) return "altered";
  if (holds && generated && !mark.found && !isSaid(said)) return "signed";
  if (holds && generated) return "signed";
  if (mark.found) return "watermark";
  if (isSaid(said) && generated) return "metadata";
  return holds ? "intact" : "none";
}

const isSaid = ({ digital_source_type: source, edgereel_note: note }) => Boolean(source || note);

const signature = ({ state, signer }) => t(`verify.signature.${state}`, { signer: signer ?? t("verify.nobody") });

function watermark({ found, id, not_looked_for: reason }) {
  if (found) return t("verify.watermark.found", { id });
  return t(reason ? "verify.watermark.skipped" : "verify.watermark.none");
}

const metadata = (said) => t(isSaid(said) ? "verify.metadata.said" : "verify.metadata.none");

by("suspect").addEventListener("change", ({ target }) => {
  examine(target.files[0]);
  target.value = "";
});
for (const name of ["dragenter", "dragover"]) {
  by("verify").addEventListener(name, (event) => {
    event.preventDefault();
    by("drop").dataset.over = "true";
  });
}
for (const name of ["dragleave", "drop"]) by("verify").addEventListener(name, () => delete by("drop").dataset.over);
by("verify").addEventListener("drop", (event) => {
  event.preventDefault();
  examine(event.dataTransfer.files[0]);
});
