// Annotation in two phases: the action that the annotator would take, and then, with the action taken and the follow-up
// in view, whether the speaker is satisfied.

import { get, post } from "./api.js";
import { Board } from "./board.js";
import { $, element, notice, on, say, show } from "./dom.js";
import { signIn } from "./sign_in.js";

const LETTERS = "ABCDEFGHIJ";
const OPTIONS = [
  ["yes", "Yes"],
  ["partial", "Yes, even though the listener did not do all that was asked for"],
  ["incorrect", "Yes, even though the listener selected or deselected something wrong"],
  ["no", "No"],
];

let task = null;
const board = new Board($("board"), draw);

$("options").append(
  ...OPTIONS.map(([value, text]) =>
    element("label", { class: "choice" }, element("input", { type: "radio", name: "satisfaction", value, required: true }), text),
  ),
);

const spelled = (letters) => [...letters].join(" ");
const parts = ({ select, deselect }) => [deselect && `deselect ${spelled(deselect)}`, select && `select ${spelled(select)}`].filter(Boolean);
const action = (planned) => parts(planned).join(" ") || "nothing";
const sentence = (text) => (text === "nothing" ? "changed nothing" : text.replace(/\bdeselect\b/, "deselected").replace(/\bselect\b/, "and selected").replace(/^and /, ""));

/** The letters in "deselect E select F". */
function read(text) {
  const [deselect = "", select = ""] = text.startsWith("deselect") ? text.slice(8).split("select") : ["", text.replace(/^select|^nothing/, "")];
  return { deselect: deselect.replaceAll(" ", ""), select: select.replaceAll(" ", "") };
}

function state() {
  const letters = task.context.map((image, place) => ({ image, letter: LETTERS[place] }));
  if (task.phase === "intended") return { role: "listener", images: letters.map((each) => ({ ...each, selected: task.selected.includes(each.letter) })) };
  const done = read(task.action);
  const selected = (letter) => (task.selected.includes(letter) && !done.deselect.includes(letter)) || done.select.includes(letter);
  return { role: "listener", images: letters.map((each) => ({ ...each, selected: selected(each.letter) })) };
}

function draw() {
  const first = task.phase === "intended";
  const fresh = first ? "" : read(task.action).select + read(task.action).deselect;
  board.render(state(), task.context.filter((_, place) => fresh.includes(LETTERS[place])), first);
  const planned = parts(board.action(state())).join(", ");
  say($("done"), planned ? planned[0].toUpperCase() + planned.slice(1) : "Change nothing");
}

function render({ task: next, done }) {
  task = next;
  notice("");
  show($("survey"), task !== null);
  show($("finished"), task === null);
  if (!task) return $("finished").querySelector("h2").focus();
  const first = task.phase === "intended";
  board.plan = new Set();
  $("satisfaction").reset();
  say($("where"), `Turn ${task.turn + 1} of ${task.turns} of this game. You have answered ${done} so far.`);
  say($("task-title"), first ? "What does the speaker ask for?" : "Is the speaker satisfied?");
  say($("explained"), first ? "Click what you would select or deselect; what is selected already is marked." : "The pictures show what the listener did; a yellow dot marks what changed.");
  say($("speech"), task.utterance);
  say($("planned"), first ? "You would:" : "");
  const yours = task.intended === task.action ? "the same" : sentence(task.intended ?? "");
  say($("reveal"), first ? "" : `The listener ${sentence(task.action)}. You would have ${yours === "the same" ? "done the same" : yours}.`);
  say($("follow-up"), task.follow_up ?? "");
  show($("action"), first);
  show($("satisfaction"), !first && task.follow_up !== null);
  show($("onward"), !first && task.follow_up === null);
  const earlier = task.earlier.map(({ utterance, action: taken }) =>
    element("li", {}, element("p", { class: "said" }, utterance), element("span", { class: "small muted" }, `The listener ${sentence(taken)}.`)),
  );
  $("history").replaceChildren(...(earlier.length ? earlier : [element("li", { class: "muted" }, "This is the first turn.")]));
  draw();
  return $("task-title").focus();
}

async function answer(fields) {
  notice("");
  const buttons = document.querySelectorAll("form button");
  buttons.forEach((button) => (button.disabled = true)); // one answer at a time
  try {
    render(await post("/api/annotate/answer", { interaction: task.interaction, turn: task.turn, ...fields }));
  } finally {
    buttons.forEach((button) => (button.disabled = false));
  }
}

on("action", "submit", async () => answer({ intended: action(board.action(state())) }));
on("satisfaction", "submit", async () => answer({ satisfaction: new FormData($("satisfaction")).get("satisfaction") }));
on("onward", "submit", async () => answer({}));
signIn("/api/annotate", async () => render(await get("/api/annotate/next")));
