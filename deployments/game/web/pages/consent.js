// Records consent, then goes to the page that the player asked for.

import { post } from "./api.js";
import { before, me, play } from "./arrival.js";
import { $, notice } from "./dom.js";

const query = new URLSearchParams(location.search);

$("consent").addEventListener("submit", async (event) => {
  event.preventDefault();
  notice("");
  try {
    const player = await me();
    if (!player.consented) await post("/api/consent", { agrees: true, text: $("consent").dataset.text });
    const state = await me();
    const next = before(state);
    const then = query.get("then");
    if (next) location.assign(next);
    else if (["policy", "people"].includes(then) && !state.study) {
      await play(then, then === "policy" ? { variant: query.get("variant") || null } : {});
    } else location.assign("/");
  } catch (error) {
    notice(error.message);
  }
});
