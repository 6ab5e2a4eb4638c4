// The approvals page: promotions that wait for a person, and their answers.

import { get, post } from "./api.js";
import { $, element, notice, on, say, show } from "./dom.js";

const LOOK_AGAIN = 10_000; // milliseconds
const HOW = { link: "by your link", proxy: "by the proxy" };
let shown = "";

const when = (time) => new Date(time).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });

/** The verdict's Markdown has paragraphs and lists with dashes, and nothing else. */
function verdict(text) {
  return text.split("\n\n").map((part) => {
    const lines = part.split("\n");
    if (!lines.every((line) => line.startsWith("- "))) return element("p", {}, part);
    return element("ul", {}, ...lines.map((line) => element("li", {}, line.slice(2))));
  });
}

function card(asked) {
  const title = `title-${asked.run}`;
  const note = element("input", { id: `note-${asked.run}`, maxlength: 1000, autocomplete: "off" });
  const answer = (approve) => async () => {
    for (const button of buttons) button.disabled = true;
    try {
      render(await post("/api/answer", { run: asked.run, question: asked.question, approve, note: note.value }));
      notice("");
      say($("state"), `${approve ? "Approved" : "Refused"}: ${asked.name}. The run continues.`);
      show($("state"));
      document.querySelector("h1").focus();
    } catch (error) {
      if (error.status === 409) await look();
      notice(error.message);
    } finally {
      for (const button of buttons) button.disabled = false;
    }
  };
  const buttons = [element("button", { type: "button", class: "first" }, "Approve"), element("button", { type: "button" }, "Refuse")];
  buttons.forEach((button, place) => button.addEventListener("click", answer(place === 0)));
  const times = `Asked ${when(asked.since)}${asked.until ? `; waits until ${when(asked.until)}` : ""}`;
  return element(
    "section",
    { class: "card", "aria-labelledby": title },
    element("h2", { id: title }, asked.name),
    ...verdict(asked.text),
    element("p", { class: "small muted" }, times),
    element("label", { for: note.id }, "Note for the ledger"),
    note,
    element("div", { class: "row" }, ...buttons),
  );
}

function render({ name, identified, waiting }) {
  const now = JSON.stringify(waiting);
  if (now !== shown) {
    $("waiting").replaceChildren(...(waiting.length ? waiting.map(card) : [element("p", { class: "muted" }, "Nothing waits.")]));
  }
  shown = now; // what was typed stays while nothing changes
  say($("who"), `You are ${name}, identified ${HOW[identified]}; the ledger says so.`);
  show($("out"), identified === "link");
  show($("desk"));
}

async function look() {
  try {
    render(await get("/api/waiting"));
  } catch (error) {
    show($("desk"), ![401, 403].includes(error.status) && !$("desk").hidden);
    throw error;
  }
}

async function enter() {
  const token = location.hash.slice(1);
  if (token) {
    history.replaceState(null, "", location.pathname); // the link is a secret
    await post("/api/enter", { token });
  }
  await look();
}

on("out", "click", async () => {
  await post("/api/leave");
  location.reload();
});
enter().catch((error) => notice(error.message));
window.addEventListener("hashchange", () => location.hash && enter().then(() => notice(""), (error) => notice(error.message)));
setInterval(() => {
  if (!document.hidden && !$("desk").hidden) look().then(() => notice(""), (error) => notice(error.message));
}, LOOK_AGAIN);
