// The endless film over a WebSocket. The server sends as many pictures as it has credit for; showing one earns one.

const CREDIT_AT_ONCE = 8;

export class LiveFilm {
  #socket = null;
  #pictures = [];
  #decoded = Promise.resolve();
  #earned = 0;
  #due = 0;
  #fps = 8;

  /** heard: { started, first, prompt, refused, ended }, called with the server's message. */
  constructor(canvas, heard) {
    this.canvas = canvas;
    this.heard = heard;
  }

  get isOpen() { return this.#socket !== null; }

  start(request) {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/live`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#send({ type: "start", ...request });
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.#hear(JSON.parse(data)) : this.#take(data));
    socket.onclose = () => this.#end();
    this.#socket = socket;
  }

  say(prompt) { this.#send({ type: "prompt", prompt }); }

  stop() {
    this.#send({ type: "stop" });
    this.#socket?.close(1000);
    this.#end();
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #end() {
    if (!this.#socket) return;
    this.#socket.onclose = this.#socket.onmessage = null;
    this.#socket = null;
    this.#pictures.splice(0).forEach((picture) => picture.close());
    this.heard.ended();
  }

  #hear(message) {
    if (message.type === "started") {
      this.canvas.width = message.width;
      this.canvas.height = message.height;
      this.#fps = message.fps;
      this.heard.started(message);
      requestAnimationFrame((now) => this.#show(now));
    } else if (message.type === "prompt") this.heard.prompt(message);
    else if (message.type === "refused" || message.type === "error") this.heard.refused(message);
  }

  /** Take a picture: four bytes of its number, then a JPEG. Decoding keeps their order. */
  #take(data) {
    const decoding = createImageBitmap(new Blob([new Uint8Array(data, 4)], { type: "image/jpeg" }));
    this.#decoded = this.#decoded.then(() => decoding).then((picture) => {
      if (this.#socket) this.#pictures.push(picture);
      else picture.close();
    }, () => this.#earn());
  }

  #show(now) {
    if (!this.#socket) return;
    if (now >= this.#due && this.#pictures.length) {
      const picture = this.#pictures.shift();
      this.canvas.getContext("2d").drawImage(picture, 0, 0);
      picture.close();
      const period = 1000 / this.#fps;
      this.#due = now - this.#due > period ? now + period : this.#due + period; // late ones do not hurry
      this.heard.first();
      this.#earn();
    }
    requestAnimationFrame((later) => this.#show(later));
  }

  #earn() {
    this.#earned += 1;
    if (this.#earned < CREDIT_AT_ONCE) return;
    this.#send({ type: "credit", pictures: this.#earned });
    this.#earned = 0;
  }
}
