// What was said and done, turn by turn.

import { thumbnail } from "./board.js";
import { element } from "./dom.js";
import { imageName } from "./words.js";

const WORDS = { selected: "Selected", deselected: "Deselected" };

function did(state, turn) {
  if (!turn.acted) return null;
  const parts = [];
  for (const change of ["selected", "deselected"]) {
    if (!turn[change].length) continue;
    parts.push(element("span", {}, WORDS[change]));
    for (const id of turn[change]) parts.push(thumbnail(state, id, label(state, id, change), change));
  }
  return element("div", { class: "did" }, ...(parts.length ? parts : ["Changed nothing"]));
}

function label(state, id, change) {
  const target = state.images.find(({ image }) => image === id)?.target;
  if (target === undefined) return imageName(state, id);
  const mark = change === "selected" ? (target ? ", target, right" : ", wrong") : target ? ", target" : "";
  return imageName(state, id) + mark;
}

function said(name, text) {
  return element("p", { class: "said" }, element("b", {}, `${name}: `), text);
}

/** Fills the list; `unsent` is {text, note} of a message that is not acknowledged. */
export function renderHistory(list, state, unsent = null) {
  const speaker = state.role === "speaker" ? "You" : "Speaker";
  const items = state.turns.map((turn) => element("li", {}, said(speaker, turn.utterance), did(state, turn) ?? waiting(state)));
  if (unsent) items.push(element("li", { class: "sending" }, said(speaker, unsent.text), element("span", { class: "small" }, unsent.note)));
  if (!items.length) items.push(element("li", { class: "muted" }, state.role === "speaker" ? "Nothing has been said yet. You begin." : "Nothing has been said yet. The speaker begins."));
  list.replaceChildren(...items);
  list.scrollTop = list.scrollHeight;
}

function waiting(state) {
  return element("span", { class: "small muted" }, state.role === "speaker" ? "Sent ✓" : "");
}
