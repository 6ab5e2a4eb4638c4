// The sign-in that pages share: a form for the token, where the server asks for one. `sign_in.html` has the form.

import { get, post } from "./api.js";
import { $, notice, on, show } from "./dom.js";

/** Calls `load`, now and after each sign-in at `api`; shows the form while the server wants a token. Returns a repeat. */
export function signIn(api, load) {
  async function enter() {
    try {
      await load();
      show($("login"), false);
    } catch (error) {
      if (error.status !== 401) throw error;
      show($("login"));
    }
  }
  on("login", "submit", async () => {
    await post(`${api}/login`, { token: $("token").value });
    $("token").value = "";
    notice("");
    await enter();
  });
  if ($("out")) {
    on("out", "click", async () => {
      await post(`${api}/logout`);
      location.reload();
    });
  }
  const again = () => enter().catch((error) => notice(error.message));
  again();
  return again;
}

/** Has `render` show the answer at `path` in the page's desk, after sign-in and then every so many milliseconds. */
export function watch(api, path, render, every) {
  async function look() {
    try {
      render(await get(`${api}/${path}`));
      if ($("desk").hidden) document.querySelector("h1").focus();
      show($("desk"));
      notice("");
    } catch (error) {
      show($("desk"), ![401, 403].includes(error.status) && !$("desk").hidden);
      throw error;
    }
  }
  const again = signIn(api, look);
  setInterval(() => document.hidden || $("desk").hidden || again(), every);
}
