// The rules, and a practice round whose listener understands everything.

import { before, me, play } from "./arrival.js";
import { $, notice, say, show } from "./dom.js";

$("practice").addEventListener("submit", async (event) => {
  event.preventDefault();
  notice("");
  try {
    await play("policy", { practice: true });
  } catch (error) {
    notice(error.message);
  }
});

async function load() {
  const state = await me();
  if (!state.consented && state.study) return location.replace("/consent");
  if (!state.practised) return undefined;
  say($("practised"), "You have done the practice round. You can play it again.");
  $("begin").classList.remove("first");
  say($("begin"), "Practise again");
  $("onward").href = before(state) ?? "/";
  $("onward").classList.add("first");
  return show($("onward"));
}

load().catch((error) => notice(error.message));
