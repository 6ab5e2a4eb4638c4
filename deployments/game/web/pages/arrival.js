// The player of this browser, and what comes before a game.

import { post } from "./api.js";

/** The player's state. A known browser keeps its player; a new browser gets a new one. */
export async function me() {
  return (await post("/api/arrive", { participant: null, study: null })).player_state;
}

/** The page that comes before a game, or null: consent for all; practice and quiz in a study. */
export function before(state) {
  if (!state.consented) return "/consent";
  if (state.study && !state.practised) return "/instructions";
  if (state.study && !state.quiz_passed) return "/quiz";
  return null;
}

/** Begins a game or the wait for one, and goes to it. Throws Refused. */
export async function play(mode, more = {}) {
  try {
    await post("/api/games", { mode, ...more });
  } catch (error) {
    if (error.status !== 409) throw error; // one is running: go to it
  }
  location.assign("/play");
}
