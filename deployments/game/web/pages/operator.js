// The operator's page: games by policy, success so far with intervals, stop and start.

import { post } from "./api.js";
import { $, element, on, say, show } from "./dom.js";
import { intervals } from "./intervals.js";
import { watch } from "./sign_in.js";

const LOOK_AGAIN = 5000; // milliseconds

let open = false;

const percent = (share) => `${Math.round(100 * share)}%`;

function interval(success) {
  if (!success) return element("span", { class: "muted" }, "no game yet");
  return intervals(`${percent(success.value)}, interval from ${percent(success.low)} to ${percent(success.high)}`, [success]);
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

on("toggle", "click", async () => render(await post(`/api/operator/${open ? "stop" : "start"}`)));
watch("/api/operator", "state", render, LOOK_AGAIN);
