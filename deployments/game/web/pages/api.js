// Requests to /api, and what comes before a player's game.

/** A refusal by the server; its message is for the player. */
export class Refused extends Error {
  constructor(status, body) {
    super(body.reason || `The server answered with ${status}.`);
    Object.assign(this, { status, field: body.field || "", game: body.game || null });
  }
}

export const get = (path) => request("GET", path);
export const post = (path, body = {}) => request("POST", path, body);

async function request(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
    });
  } catch {
    throw new Refused(0, { reason: "The server cannot be reached. Check your connection and try again." });
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer);
  return answer;
}

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
