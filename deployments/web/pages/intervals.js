// A dot with whiskers: a figure and its interval.

import { drawn } from "./dom.js";

const WIDTH = 200;
const MARGIN = 8;

/** Draws figures `{value, low, high, kind}` below one another on an axis from `from` to `to`, with a mark at `at`. */
export function intervals(text, figures, from = 0, to = 1, at = (from + to) / 2) {
  const height = 10 + 16 * figures.length;
  const x = (value) => MARGIN + ((Math.min(Math.max(value, from), to) - from) / (to - from)) * (WIDTH - 2 * MARGIN);
  const middle = (place) => 13 + 16 * place;
  return drawn(
    "svg",
    { class: "interval", viewBox: `0 0 ${WIDTH} ${height}`, height, role: "img", "aria-label": text },
    drawn("line", { class: "axis", x1: x(from), x2: x(to), y1: height / 2, y2: height / 2 }),
    ...[from, at, to].map((value) => drawn("line", { class: "axis", x1: x(value), x2: x(value), y1: 5, y2: height - 5 })),
    ...figures.flatMap(({ value, low, high, kind = "" }, place) => [
      drawn("line", { class: `range ${kind}`, x1: x(low), x2: x(high), y1: middle(place), y2: middle(place) }),
      drawn("circle", { class: kind, cx: x(value), cy: middle(place), r: 5 }),
    ]),
  );
}
