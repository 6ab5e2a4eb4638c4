// Requests to the server.

/** A refusal by the server; its message is for who sees the page. */
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
