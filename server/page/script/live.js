// Pictures over a WebSocket. The server sends as many as it has credit for; showing one earns one.

const CREDIT_AT_ONCE = 8;
const OWN = ["shown", "ended"]; // told by what is here, not by messages

export class LiveFilm {
  #socket = null;
  #pictures = [];
  #decoded = Promise.resolve();
  #earned = 0;
  #due = 0;
  #fps = 8;
  from = 0; // earlier pictures are not shown

  /** heard: by type of the server's messages, called with them; shown(number) for each picture, ended when it is over. */
  constructor(canvas, heard, path = "/v1/live") {
    this.canvas = canvas;
    this.heard = heard;
    this.path = path;
  }

  get isOpen() { return this.#socket !== null; }

  start(request) {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${this.path}`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#send({ type: "start", ...request });
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.#hear(JSON.parse(data)) : this.#take(data));
    socket.onclose = () => this.#end();
    this.#socket = socket;
  }

  say(message) { this.#send(message); }

  /** Leave out what waits to be shown, and what comes until `from` is set, for something else that is shown at once. */
  drop() {
    this.from = Infinity;
    this.#due = 0;
    for (const { picture } of this.#pictures.splice(0)) {
      picture.close();
      this.#earn();
    }
  }

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
    this.#pictures.splice(0).forEach(({ picture }) => picture.close());
    this.heard.ended();
  }

  #hear(message) {
    if (message.type === "started") {
      this.canvas.width = message.width;
      this.canvas.height = message.height;
      this.#fps = message.fps;
      requestAnimationFrame((now) => this.#show(now));
    }
    if (!OWN.includes(message.type)) this.heard[message.type]?.(message);
  }

  /** Take a picture: four bytes of its number, then a JPEG. Decoding keeps their order. */
  #take(data) {
    const number = new DataView(data).getUint32(0);
    const decoding = createImageBitmap(new Blob([new Uint8Array(data, 4)], { type: "image/jpeg" }));
    this.#decoded = this.#decoded.then(() => decoding).then((picture) => {
      if (this.#socket && number >= this.from) return this.#pictures.push({ number, picture });
      picture.close();
      return this.#earn();
    }, () => this.#earn());
  }

  #show(now) {
    if (!this.#socket) return;
    if (now >= this.#due && this.#pictures.length) {
      const { number, picture } = this.#pictures.shift();
      this.canvas.getContext("2d").drawImage(picture, 0, 0);
      picture.close();
      const period = 1000 / this.#fps;
      this.#due = now - this.#due > period ? now + period : this.#due + period; // late ones do not hurry
      this.heard.shown(number);
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
