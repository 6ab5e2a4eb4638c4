// Questions on the rules; all must be right.

import { get, post } from "./api.js";
import { before, me } from "./arrival.js";
import { $, element, notice } from "./dom.js";

let questions = [];

function question({ id, text, options }) {
  const choices = options.map((option) =>
    element("label", { class: "choice" }, element("input", { type: "radio", name: id, value: option }), option),
  );
  return element("fieldset", { id: `question-${id}` }, element("legend", {}, text), ...choices);
}

async function check() {
  const chosen = new FormData($("quiz"));
  const missing = questions.filter(({ id }) => !chosen.has(id));
  if (missing.length) return mark(missing.map(({ id }) => id), "Please answer every question.");
  const { passed, wrong } = await post("/api/quiz", { answers: Object.fromEntries(chosen) });
  if (passed) return location.assign(before(await me()) ?? "/");
  const many = wrong.length === 1 ? "One answer is not right" : `${wrong.length} answers are not right`;
  return mark(wrong, `${many}; look at the marked questions and try again.`);
}

function mark(ids, text) {
  for (const { id } of questions) {
    const field = $(`question-${id}`);
    field.classList.toggle("wrong", ids.includes(id));
    field.querySelectorAll("input").forEach((input) => input.setAttribute("aria-invalid", ids.includes(id)));
  }
  notice(text);
  $(`question-${ids[0]}`).querySelector("input").focus();
}

$("quiz").addEventListener("submit", (event) => {
  event.preventDefault();
  notice("");
  check().catch((error) => notice(error.message));
});

async function load() {
  const state = await me();
  if (state.quiz_passed) return location.replace(before(state) ?? "/");
  questions = await get("/api/quiz");
  return $("questions").replaceChildren(...questions.map(question));
}

load().catch((error) => notice(error.message));
