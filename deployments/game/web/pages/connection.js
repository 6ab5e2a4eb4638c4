// The socket: it reconnects by itself, notices a dead connection, and reports its state.

const PATIENCE = 8000; // milliseconds without an answer until the connection counts as dead
const PING_EVERY = 10000;
const LONGEST_PAUSE = 5000;
const TAKEN_OVER = 4001; // close codes
const TOO_MUCH = [1008, 1009];

export class Connection {
  /**
   * `on.message(object)`; `on.change(where)` with "open", "lost", "elsewhere" or "refused".
   * A lost connection is tried again until `stop`.
   */
  constructor(on) {
    this.on = on;
    this.tries = 0;
    this.stopped = false;
    addEventListener("online", () => this.again());
    document.addEventListener("visibilitychange", () => document.hidden || this.check());
    this.open();
  }

  get live() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  open() {
    clearTimeout(this.retry);
    this.stopped = false;
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
    this.socket = socket;
    const early = setTimeout(() => this.lose(socket), PATIENCE);
    socket.onopen = () => {
      clearTimeout(early);
      this.tries = 0;
      this.heard = Date.now();
      this.beat = setInterval(() => this.check(), PING_EVERY);
      this.on.change("open");
    };
    socket.onmessage = ({ data }) => {
      this.heard = Date.now();
      const message = JSON.parse(data);
      if (message.type === "elsewhere") this.stop("elsewhere");
      else if (message.type !== "pong") this.on.message(message);
    };
    socket.onclose = ({ code }) => {
      clearTimeout(early);
      if (socket !== this.socket || this.stopped) return;
      if (code === TAKEN_OVER) this.stop("elsewhere");
      else if (TOO_MUCH.includes(code)) this.stop("refused");
      else this.lose(socket);
    };
  }

  /** Sends if connected. The caller sends what matters again after reconnecting. */
  send(message) {
    if (this.live) this.socket.send(JSON.stringify(message));
  }

  /** Sends a ping, and drops the connection if nothing comes back. */
  check() {
    if (this.stopped) return;
    if (!this.live) return this.again();
    const socket = this.socket;
    const sentAt = Date.now();
    this.send({ type: "ping", at: sentAt / 1000 });
    setTimeout(() => socket === this.socket && this.heard < sentAt && this.lose(socket), PATIENCE);
  }

  again() {
    if (!this.stopped && !this.live && this.socket.readyState !== WebSocket.CONNECTING) this.open();
  }

  lose(socket) {
    if (socket !== this.socket || this.stopped) return;
    this.drop();
    this.on.change("lost");
    const pause = Math.min(LONGEST_PAUSE, 300 * 2 ** this.tries++) * (0.7 + 0.6 * Math.random());
    this.retry = setTimeout(() => this.open(), pause);
  }

  stop(why) {
    this.stopped = true;
    this.drop();
    this.on.change(why);
  }

  drop() {
    clearInterval(this.beat);
    clearTimeout(this.retry);
    this.socket.onclose = null;
    this.socket.onmessage = null;
    this.socket.close();
  }
}
