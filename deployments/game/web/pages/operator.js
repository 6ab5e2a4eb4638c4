// The operator's page: games by policy, success so far with intervals, stop and start.

import { get, post } from "./api.js";
import { $, drawn, element, notice, say, show } from "./dom.js";

const LOOK_AGAIN = 5000; // milliseconds
const WIDTH = 200;
const MARGIN = 8;

let open = false;

const percent = (share) => `${Math.round(100 * share)}%`;

function interval(success) {
  if (!success) return element("span", { class: "muted" }, "no game yet");
  const x = (share) => MARGIN + share * (WIDTH - 2 * MARGIN);
  const text = `${percent(success.value)}, interval from ${percent(success.low)} to ${percent(success.high)}`;
  return drawn(
    "svg",
    { class: "interval", viewBox: `0 0 ${WIDTH} 26`, role: "img", "aria-label": text },
    drawn("line", { class: "axis", x1: x(0), x2: x(1), y1: 13, y2: 13 }),
    ...[0, 0.5, 1].map((share) => drawn("line", { class: "axis", x1: x(share), x2: x(share), y1: 7, y2: 19 })),
    drawn("line", { class: "range", x1: x(success.low), x2: x(success.high), y1: 13, y2: 13 }),
    drawn("circle", { cx: x(success.value), cy: 13, r: 5 }),
  );
}

function row({ policy, running, done, broken_off, wanted, success }) {
  const number = (value) => element("td", { class: "number" }, String(value));
  const words = success ? `${percent(success.value)} (${percent(success.low)} to ${percent(success.high)})` : "–";
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, policy),
    number(running),
    number(wanted === null || wanted === undefined ? done : `${done} of ${wanted}`),
    number(broken_off),
    element("td", {}, words),
    element("td", {}, interval(success)),
  );
}

function render(state) {
  open = state.open;
  say($("open"), open ? "The study is open: new games begin." : "The study is stopped: running games end, no new ones begin.");
  say($("toggle"), open ? "Stop the study" : "Start the study");
  $("toggle").classList.toggle("first", !open);
  document.querySelector("h1").textContent = state.name ? `Study: ${state.name}` : "Games";
  show($("toggle"), Boolean(state.name));
  if (!state.name) say($("open"), "No study is loaded: everybody plays freely.");
  const figures = {
    "Games running": state.running,
    "Players connected": state.connected,
    "In the lobby": state.lobby,
    "Released after a wait": state.name ? state.released : null,
    "Games to be stored": state.unstored,
  };
  $("figures").replaceChildren(
    ...Object.entries(figures)
      .filter(([, value]) => value !== undefined && value !== null)
      .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))),
  );
  show($("by-policy"), state.policies.length > 0);
  $("policies").replaceChildren(...state.policies.map(row));
  const acting = Object.entries(state.versions).map(([variant, version]) => `${variant}: ${version}`);
  say($("versions"), acting.length ? `New games get ${acting.join(", ")}.` : "No policy is ready to play.");
  say($("updated"), `As of ${new Date().toLocaleTimeString()}. Success counts finished games; intervals are bootstrapped.`);
}

async function look() {
  try {
    render(await get("/api/operator/state"));
    show($("login"), false);
    show($("desk"));
    notice("");
    return true;
  } catch (error) {
    show($("desk"), ![401, 403].includes(error.status) && !$("desk").hidden);
    show($("login"), error.status === 401);
    notice(error.status === 401 ? "" : error.message);
    return false;
  }
}

function on(id, event, handler) {
  $(id).addEventListener(event, async (happened) => {
    happened.preventDefault();
    await handler().catch((error) => notice(error.message));
  });
}

on("login", "submit", async () => {
  await post("/api/operator/login", { token: $("token").value });
  $("token").value = "";
  if (await look()) document.querySelector("h1").focus();
});
on("toggle", "click", async () => render(await post(`/api/operator/${open ? "stop" : "start"}`)));
on("out", "click", async () => {
  await post("/api/operator/logout");
  location.reload();
});

look();
setInterval(() => document.hidden || $("desk").hidden || look(), LOOK_AGAIN);
