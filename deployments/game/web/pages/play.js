// The game's page draws the server's `state`. Nothing else is stored but what has not been sent.

import { post } from "./api.js";
import { before, me, play } from "./arrival.js";
import { Board } from "./board.js";
import { Clock } from "./clock.js";
import { Connection } from "./connection.js";
import { $, element, notice, say, show } from "./dom.js";
import { draft, sent } from "./drafts.js";
import { renderHistory } from "./history.js";
import { actionText, ending, imageName, mine, turnsLeft, turnSeconds, whoseMove } from "./words.js";

const VIEWS = ["elsewhere", "lobby", "none", "table"];
const ANNOUNCEMENTS = 6; // in the log that screen readers read
const SILENCE = 800; // milliseconds without a message after connecting, until the page asks for the state

const NEARLY = 20; // seconds before the end of a wait

let state = null;
let line; // the connection
let reconnected = false;
let waited = null; // the last message from the lobby, and when it came

const board = new Board($("board"), () => {
  draft.set(state.game, state.turn, [...board.plan].sort());
  draw();
});
const clock = new Clock({ box: $("clock"), seconds: $("seconds"), bar: $("bar") }, announce);

function announce(text) {
  $("spoken").append(element("p", {}, text));
  while ($("spoken").children.length > ANNOUNCEMENTS) $("spoken").firstChild.remove();
}

function view(name, focus = false) {
  for (const id of VIEWS) show($(id), id === name);
  if (name !== "table") {
    clock.set(null);
    show($("leave"), false);
    say($("turns"), "");
    say($("whose"), name === "lobby" ? "Finding a partner" : "The game");
  }
  if (focus) $(name).querySelector("h2").focus();
}

// --- from the server ---------------------------------------------------------------------------------------------

const handlers = {
  state(now) {
    const last = state?.game === now.game ? state : null;
    if (last && now.seq < last.seq) return;
    state = now;
    notice("");
    view("table");
    settle();
    if (reconnected) resend();
    reconnected = false;
    restore(last);
    draw();
    clock.set(state.seconds_left, turnSeconds(state.phase), mine(state));
    tell(last);
    focus(last);
  },
  acknowledged({ game, turn }) {
    if (sent.get(game, turn) === null) return;
    sent.clear();
    draft.clear();
    announce("Sent");
  },
  refused({ field, reason }) {
    const pending = state && sent.get(state.game, state.turn);
    sent.clear();
    if (pending && typeof pending === "string" && !$("text").value) {
      $("text").value = pending;
      draft.set(state.game, state.turn, pending);
    }
    if (state) draw();
    const text = `Not done: ${reason}.`;
    if (state && state.role === "speaker" && ["text", "turn"].includes(field)) say($("refused"), text);
    else notice(text);
  },
  lobby(word) {
    waited = { ...word, at: performance.now() };
    if ($("lobby").hidden) view("lobby", true);
    wait();
  },
  released({ reason }) {
    waited = null;
    nothing("Nobody came this time", `${reason} Thank you for waiting.`);
  },
};

/** Forgets what was sent once the server has it. */
function settle() {
  const turn = state.turns[state.turn];
  const done = state.role === "speaker" ? turn : turn?.acted;
  if (done || state.turns.length > state.turn + 1) {
    if (sent.get(state.game, state.turn) !== null) sent.clear();
  }
}

function resend() {
  const pending = sent.get(state.game, state.turn);
  if (pending !== null && mine(state)) line.send(move(pending));
}

const move = (pending) => ({
  game: state.game,
  turn: state.turn,
  ...(typeof pending === "string" ? { type: "say", text: pending } : { type: "act", ...pending }),
});

/** Restores text and clicks after a reload. */
function restore(last) {
  if (last && last.turn === state.turn && last.phase === state.phase) return;
  say($("refused"), "");
  const pending = mine(state) && sent.get(state.game, state.turn) === null ? draft.get(state.game, state.turn) : null;
  if (state.role === "speaker") $("text").value = typeof pending === "string" ? pending : "";
  else board.plan = new Set(Array.isArray(pending) ? pending : []);
}

// --- drawing -----------------------------------------------------------------------------------------------------

function draw() {
  const over = state.phase === "over";
  const turn = state.turns.at(-1);
  const unsent = sent.get(state.game, state.turn);
  const open = mine(state) && unsent === null;
  say($("whose"), whoseMove(state));
  say($("turns"), over ? "" : turnsLeft(state));
  $("status").classList.toggle("mine", mine(state));
  show($("leave"), !over);
  say($("hint"), hint());
  board.render(state, turn?.acted ? [...turn.selected, ...turn.deselected] : [], state.role === "listener" && open);
  renderHistory($("history"), state, typeof unsent === "string" ? { text: unsent, note: over ? "This came too late." : "Sending …" } : null);
  show($("say"), state.role === "speaker" && !over);
  show($("act"), state.role === "listener" && !over);
  $("text").readOnly = !open;
  $("text").placeholder = open ? "" : unsent === null ? "Wait for the listener" : "Sending …";
  $("say").querySelector("button").disabled = !open;
  if (state.role === "listener") drawPlan(open, unsent);
  show($("over"), over);
  if (over) drawOver();
  document.title = `${whoseMove(state)} · MULTIREF`;
  connectionText();
}

function hint() {
  if (state.phase === "over") return "";
  if (state.practice && !state.turns.length) return "Practice: describe one of the framed pictures, for example by what it looks like.";
  if (state.role === "listener") return "Select what the speaker means, then confirm. You do not see the targets.";
  const left = state.images.filter(({ target, selected }) => target && !selected).length;
  return `Black frames are targets; only you see them. ${left} to be selected.`;
}

function drawPlan(open, unsent) {
  const { select, deselect } = board.action(state);
  const parts = [];
  if (select) parts.push(`select ${[...select].join(" ")}`);
  if (deselect) parts.push(`deselect ${[...deselect].join(" ")}`);
  const text = parts.join(", ") || "change nothing";
  $("done").disabled = !open;
  say($("done"), text[0].toUpperCase() + text.slice(1));
  const planned = unsent !== null ? "Sending …" : open ? "Click pictures, then this button." : "Wait for the speaker.";
  say($("planned"), planned);
}

function drawOver() {
  const { title, text } = ending(state);
  say($("over-title"), title);
  say($("over-text"), text);
  say($("again"), state.practice ? (practised() ? "Continue" : "Practise again") : "Next game");
}

const practised = () => ["won", "out_of_turns"].includes(state.over.reason);

function connectionText(where = line.live ? "open" : "lost") {
  let text = "";
  if (where === "lost") text = "The connection is lost. Trying again; your words are kept.";
  else if (state?.partner === "person" && state.phase !== "over" && !state.partner_here) {
    text = "Your partner has lost the connection. They may come back while their clock runs.";
  }
  say($("connection"), text);
  show($("connection"), text !== "");
}

// --- for screen readers and keyboards ---------------------------------------------------------------------------

function tell(last) {
  if (!last) {
    const targets = state.images.filter(({ target }) => target).map(({ image }) => imageName(state, image));
    announce(`You are the ${state.role}. ` + (targets.length ? `Targets: ${targets.join(", ")}. ` : "") + whoseMove(state));
    return;
  }
  const words = [];
  const turn = state.turns.at(-1);
  const before = last.turns[state.turns.length - 1];
  if (state.role === "speaker" && turn?.acted && !before?.acted) words.push(`The listener ${actionText(state, turn)}.`);
  if (state.role === "listener" && turn && !before) words.push(`The speaker says: ${turn.utterance}`);
  if (state.phase !== last.phase) words.push(whoseMove(state));
  if (mine(state) && state.seconds_left !== null && state.phase !== last.phase) words.push(`${Math.round(state.seconds_left)} seconds.`);
  if (words.length) announce(words.join(" "));
}

/** Focus goes to the move that is due, but is never taken from something else that the player uses. */
function focus(last) {
  if (state.phase === "over" && last?.phase !== "over") return $("over-title").focus();
  if (last?.phase === state.phase) return undefined;
  const free = [document.body, null, $("text"), $("whose")].includes(document.activeElement) || $("over").contains(document.activeElement);
  if (!free || !mine(state)) return undefined;
  return state.role === "speaker" ? $("text").focus() : $("board").querySelector("button").focus();
}

// --- the player's part -------------------------------------------------------------------------------------------

function give(pending) {
  sent.set(state.game, state.turn, pending);
  line.send(move(pending));
  draw();
}

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!mine(state) || !text || sent.get(state.game, state.turn) !== null) return;
  say($("refused"), "");
  $("text").value = "";
  give(text);
});
$("text").addEventListener("input", () => draft.set(state.game, state.turn, $("text").value));
$("act").addEventListener("submit", (event) => {
  event.preventDefault();
  if (mine(state) && sent.get(state.game, state.turn) === null) give(board.action(state));
});
$("leave").addEventListener("click", () => {
  if (confirm("End this game? It ends for your partner, too.")) line.send({ type: "leave", game: state.game });
});
$("here").addEventListener("click", () => line.open());
$("stay").addEventListener("click", () => line.send({ type: "wait" }));
$("again").addEventListener("click", () => next().catch((error) => notice(error.message)));
$("none-next").addEventListener("click", () => next().catch((error) => notice(error.message)));

async function next() {
  notice("");
  if (state?.practice && practised()) await post("/api/practised");
  const player = await me();
  const first = before(player);
  if (state?.practice) {
    if (practised()) return location.assign(first ?? "/");
    return play("policy", { practice: true });
  }
  if (first) return location.assign(first);
  if (player.study) return play("study");
  const mode = state?.partner === "person" ? "people" : "policy";
  return play(mode, mode === "policy" ? { variant: sessionStorage.getItem("multiref:variant") || null } : {});
}

// --- waiting, and where we are ------------------------------------------------------------------------------------

function wait() {
  if (!waited || $("lobby").hidden) return;
  const passed = (performance.now() - waited.at) / 1000;
  const left = Math.max(0, waited.times_out_in - passed);
  const text = `You have waited ${Math.round(waited.waiting_seconds + passed)} s. If nobody comes, the wait ends in ${Math.ceil(left)} s.`;
  say($("waiting"), text);
  show($("still"), left <= NEARLY);
}
setInterval(wait, 1000);

function nothing(title, text) {
  say($("none-title"), title);
  say($("none-text"), text);
  view("none", true);
}

async function lookAround() {
  const player = await me().catch(() => null);
  if (!player || player.game || player.in_lobby || state?.phase === "over") return;
  nothing("No game is running", state ? "Your game is over." : "");
}

function change(where) {
  if (where === "elsewhere") return view("elsewhere", true);
  if (where === "refused") return notice("The server closed the connection: it received too many messages, or invalid ones. Load the page again.");
  reconnected = true;
  connectionText(where);
  if (where === "open") {
    const seq = state?.seq;
    setTimeout(() => state?.seq === seq && $("lobby").hidden && lookAround(), SILENCE);
  }
  return undefined;
}

async function load() {
  await me();
  line = new Connection({ message: (message) => handlers[message.type]?.(message), change });
}

load().catch((error) => notice(error.message));
