// A picture from the camera, taken in a dialog.

import { by } from "./elements.js";
import { t } from "./strings.js";

const dialog = by("lens");
const finder = by("finder");

/** Show what the camera sees until somebody takes a picture: a JPEG file, or null where nobody did. */
export async function takePicture() {
  by("lens-wrong").textContent = "";
  by("shutter").disabled = true;
  dialog.showModal();
  let taken = null;
  const closed = new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const shoot = async () => {
    taken = await still();
    dialog.close();
  };
  let stream = null;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 } } });
    finder.srcObject = stream;
    await finder.play();
    by("shutter").disabled = false;
    by("shutter").focus();
    by("shutter").addEventListener("click", shoot);
  } catch {
    by("lens-wrong").textContent = t("camera.none");
  }
  if (dialog.open) await closed;
  by("shutter").removeEventListener("click", shoot);
  stream?.getTracks().forEach((track) => track.stop());
  finder.srcObject = null;
  return taken;
}

async function still() {
  const canvas = new OffscreenCanvas(finder.videoWidth, finder.videoHeight);
  canvas.getContext("2d").drawImage(finder, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  return new File([blob], "camera.jpg", { type: blob.type });
}
