// The mover's clock: it counts down by itself between two messages from the server.

const SOON = [10, 5]; // seconds at which a mover is told

export class Clock {
  /** `tell(text)` is for screen readers, and only called for one's own clock. */
  constructor({ box, seconds, bar }, tell) {
    Object.assign(this, { box, seconds, bar, tell, ends: null });
    setInterval(() => this.tick(), 250);
  }

  /** Runs for `left` seconds of about `total`; null stops it. */
  set(left, total, mine) {
    this.box.hidden = left === null;
    this.ends = left === null ? null : performance.now() + left * 1000;
    this.mine = mine;
    this.told = SOON.filter((mark) => left !== null && left <= mark);
    if (left !== null) this.bar.max = total;
    this.tick();
  }

  tick() {
    if (this.ends === null) return;
    const left = Math.max(0, (this.ends - performance.now()) / 1000);
    const text = String(Math.ceil(left));
    if (this.seconds.textContent !== `${text} s`) this.seconds.textContent = `${text} s`;
    this.bar.value = Math.min(left, this.bar.max);
    this.box.classList.toggle("short", left <= SOON[0]);
    const due = SOON.find((mark) => left <= mark && left > mark - 1 && !this.told.includes(mark));
    if (this.mine && due) {
      this.told.push(due);
      this.tell(`${due} seconds left`);
    }
  }
}
