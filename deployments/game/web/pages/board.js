// Pictures: the speaker's with frames and marks, the listener's as buttons.

import { element } from "./dom.js";
import { imageLabel } from "./words.js";

const COLUMNS = 5;
const BADGES = { right: "✓", wrong: "✗" };

const classes = (target, states) => {
  for (const [name, on] of Object.entries(states)) target.classList.toggle(name, Boolean(on));
};

const picture = (id) => element("img", { src: `/api/images/${id}.png`, alt: "", width: 224, height: 224, draggable: "false" });

function badge(tile, text) {
  const existing = tile.querySelector(".badge");
  if (!text) existing?.remove();
  else if (existing) existing.textContent = text;
  else tile.append(element("span", { class: "badge", "aria-hidden": "true" }, text));
}

/** A small picture for the history, with its letter, frame and mark. */
export function thumbnail(state, id, label, change) {
  const seen = state.images.find(({ image }) => image === id) ?? {};
  const tile = element("span", { class: "tile", role: "img", "aria-label": label }, picture(id));
  if (seen.letter) tile.append(element("span", { class: "letter", "aria-hidden": "true" }, seen.letter));
  const mark = seen.target === undefined || change === "deselected" ? null : seen.target ? "right" : "wrong";
  classes(tile, { target: seen.target, right: mark === "right", wrong: mark === "wrong" });
  badge(tile, mark ? BADGES[mark] : null);
  return tile;
}

export class Board {
  /** `changed()` is called when a picture was clicked; `plan` holds the clicked letters that are not sent. */
  constructor(list, changed = () => {}) {
    Object.assign(this, { list, changed, plan: new Set(), images: "" });
    list.addEventListener("keydown", (event) => this.key(event));
  }

  /** Shows the pictures of a state; `fresh` are ids that changed in the last turn, `open` allows clicks. */
  render(state, fresh, open) {
    const ids = state.images.map(({ image }) => image).join();
    if (ids !== this.images) this.build(state, ids);
    state.images.forEach((image, place) => this.update(state, image, this.list.children[place].firstChild, fresh, open));
  }

  build(state, ids) {
    this.images = ids;
    const tile = ({ image, letter }) =>
      letter
        ? element("button", { class: "tile", type: "button", "data-letter": letter }, picture(image), element("span", { class: "letter", "aria-hidden": "true" }, letter))
        : element("div", { class: "tile", role: "img" }, picture(image));
    this.list.replaceChildren(...state.images.map((image) => element("li", {}, tile(image))));
    for (const button of this.list.querySelectorAll("button")) button.addEventListener("click", () => this.toggle(button.dataset.letter));
  }

  update(state, image, tile, fresh, open) {
    const { letter, selected, target, mark } = image;
    const pending = this.plan.has(letter);
    const looksSelected = pending ? !selected : selected;
    const planned = pending ? (selected ? "to be deselected" : "to be selected") : null;
    classes(tile, {
      target, pending, selected: looksSelected && !mark, right: mark === "right", wrong: mark === "wrong", fresh: fresh.includes(image.image),
    });
    badge(tile, mark ? BADGES[mark] : pending ? (selected ? "−" : "+") : letter && selected ? "✓" : null);
    tile.setAttribute("aria-label", imageLabel(state, image, planned));
    if (letter) {
      tile.setAttribute("aria-pressed", String(looksSelected));
      tile.setAttribute("aria-disabled", String(!open));
    }
    this.open = open;
  }

  toggle(letter) {
    if (!this.open) return;
    if (!this.plan.delete(letter)) this.plan.add(letter);
    this.changed();
  }

  /** Arrows move over the pictures, a letter clicks the picture that bears it. */
  key(event) {
    const buttons = [...this.list.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: COLUMNS, ArrowUp: -COLUMNS }[event.key];
    const named = buttons.find((button) => button.dataset.letter === event.key.toUpperCase());
    const goal = step ? buttons[at + step] : named;
    if (!goal) return;
    event.preventDefault();
    goal.focus();
    if (!step) this.toggle(goal.dataset.letter);
  }

  /** The planned action in letters, by what is selected. */
  action(state) {
    const planned = state.images.filter(({ letter }) => this.plan.has(letter));
    const letters = (selected) => planned.filter((image) => image.selected === selected).map(({ letter }) => letter).join("");
    return { select: letters(false), deselect: letters(true) };
  }
}
