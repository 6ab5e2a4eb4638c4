// An audit of the decoder: a conversation up to a follow-up, and whether the user was satisfied, by mouse or keys 1 to 3.

import { get, post } from "./api.js";
import { $, element, notice, on, say, show } from "./dom.js";
import { signIn } from "./sign_in.js";

const OPTIONS = [
  ["yes", "Satisfied"],
  ["neutral", "Neutral, or it does not tell"],
  ["no", "Not satisfied"],
];

let task = null;

$("options").append(
  ...OPTIONS.map(([value, text], place) =>
    element(
      "label",
      { class: "choice" },
      element("input", { type: "radio", name: "satisfaction", value, required: true }),
      element("span", {}, element("kbd", { "aria-hidden": "true" }, String(place + 1)), ` ${text}`),
    ),
  ),
);

function render({ task: next, done }) {
  task = next;
  notice("");
  show($("survey"), task !== null);
  show($("finished"), task === null);
  if (!task) return $("finished").querySelector("h2").focus();
  $("satisfaction").reset();
  say($("where"), `You have labelled ${done} so far.`);
  $("talk").replaceChildren(
    ...task.messages.map(({ role, text }) =>
      element("li", { class: `message ${role === "user" ? "user" : ""}` }, element("span", { class: "small muted" }, role), element("p", { class: "written", dir: "auto" }, text)),
    ),
  );
  say($("follow-up"), task.follow_up);
  return $("task-title").focus();
}

async function answer(satisfaction) {
  notice("");
  const button = $("satisfaction").querySelector("button");
  button.disabled = true; // one answer at a time
  try {
    render(await post("/api/annotate/answer", { interaction: task.interaction, turn: task.turn, satisfaction }));
  } finally {
    button.disabled = false;
  }
}

document.addEventListener("keydown", (event) => {
  if (!task || event.ctrlKey || event.metaKey || event.altKey) return;
  const input = $("options").querySelectorAll("input")[Number(event.key) - 1];
  if (!input) return;
  input.checked = true;
  input.focus(); // Enter sends it
});

on("satisfaction", "submit", async () => answer(new FormData($("satisfaction")).get("satisfaction")));
signIn("/api/annotate", async () => render(await get("/api/annotate/next")));
