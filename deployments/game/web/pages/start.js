// The start: play now, play with a person, or take part in a study.

import { post } from "./api.js";
import { before, me, play } from "./arrival.js";
import { $, element, notice, say, show } from "./dom.js";

const STEPS = [
  ["consented", "Consent"],
  ["practised", "How it works, and a practice round"],
  ["quiz_passed", "A few questions"],
];
const LOOK_AGAIN = 2000; // milliseconds

const query = new URLSearchParams(location.search || location.hash.slice(1)); // of a signed link: behind the #
let state;

async function load() {
  if (query.has("study")) {
    $("study-name").value = query.get("study");
    $("participant").value = query.get("participant") ?? "";
    $("joining").open = true;
    history.replaceState(null, "", "/"); // a participant's id does not stay in the address
  }
  render(await me());
}

function render(now) {
  state = now;
  show($("running"), Boolean(state.game || state.in_lobby));
  show($("free"), !state.study && !query.has("study"));
  show($("study"), Boolean(state.study));
  show($("joining"), !state.study);
  if (state.study) study();
  else if (!query.has("study")) policies();
}

function policies() {
  const ready = state.policies.length > 0;
  const select = $("variant");
  if (select.options.length !== state.policies.length + 1) {
    const options = state.policies.map((name) => element("option", { value: name }, name));
    select.replaceChildren(element("option", { value: "" }, "Any"), ...options);
  }
  show($("variants"), state.policies.length > 1);
  show($("preparing"), !ready);
  $("policy").querySelector("button").disabled = !ready;
  if (!ready) setTimeout(async () => render(await me().catch(() => state)), LOOK_AGAIN);
}

function study() {
  const { open, full, name } = state.study;
  say($("study-title"), `Study: ${name}`);
  const left = state.games_left;
  const finished = left !== null && left <= 0;
  if (!open) say($("study-open"), "The study is stopped for now. Please come back later.");
  else if (full && !finished) say($("study-open"), "Every game of this study is taken: there is no place left. Thank you for coming.");
  else say($("study-open"), "");
  const next = STEPS.find(([field]) => !state[field]);
  $("steps").replaceChildren(
    ...STEPS.map(([field, text]) => {
      const done = state[field] ? ", done" : "";
      const item = element("li", { class: state[field] ? "done" : next?.[0] === field ? "now" : "" });
      item.append(element("span", {}, text, element("span", { class: "unseen" }, done)));
      return item;
    }),
  );
  say($("games"), `Games played: ${state.games_done}.` + (left === null ? "" : ` You may play ${left} more.`));
  if (finished) say($("games"), `You have played all your games (${state.games_done}). Thank you for taking part.`);
  say($("next"), next ? "Continue" : "Start a game");
  $("next").disabled = !open || full || finished;
}

async function begin(mode, more = {}) {
  notice("");
  const first = before(state);
  if (first) return location.assign(state.study ? first : `${first}?then=${mode}&variant=${more.variant ?? ""}`);
  await play(mode, more);
}

function on(id, event, handler) {
  $(id).addEventListener(event, async (happened) => {
    happened.preventDefault();
    await handler().catch((error) => notice(error.message));
  });
}

on("policy", "submit", () => begin("policy", { variant: $("variant").value || null }));
on("people", "submit", () => begin("people"));
on("next", "click", () => begin("study"));
on("join", "submit", async () => {
  notice("");
  const arrival = { study: $("study-name").value.trim(), participant: $("participant").value.trim() };
  if (query.has("signature")) Object.assign(arrival, { until: Number(query.get("until")), signature: query.get("signature") });
  render((await post("/api/arrive", arrival)).player_state);
  $("study-title").scrollIntoView();
});
addEventListener("pageshow", (event) => event.persisted && load());
load().catch((error) => notice(error.message));
