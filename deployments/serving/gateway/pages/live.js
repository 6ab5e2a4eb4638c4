// The operator's page of a gateway: what users said next to each version, and how versions differ.

import { $, element, say, show } from "./dom.js";
import { intervals } from "./intervals.js";
import { watch } from "./sign_in.js";

const LOOK_AGAIN = 10_000; // milliseconds
const SIGNS = [
  ["negative", "bad"],
  ["neutral", "plain"],
  ["positive", "good"],
];

const count = (value) => value.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const change = (share) => `${share > 0 ? "+" : share < 0 ? "−" : ""}${(100 * Math.abs(share)).toFixed(1)}`;
const seconds = (value) => (value === null ? "–" : value < 10 ? `${value.toFixed(2)} s` : `${value.toFixed(0)} s`);

const cell = (...children) => element("td", {}, ...children);
const number = (text) => element("td", { class: "number" }, text);
const none = (text) => element("span", { class: "muted" }, text);

function estimate(found, form) {
  if (!found) return cell(none("–"));
  const range = `${form(found.low)} to ${form(found.high)}`;
  return cell(element("b", {}, form(found.value)), element("span", { class: "small muted range-text" }, range));
}

function name({ variant, version, on_offer }) {
  const offer = on_offer ? element("span", { class: "tag" }, "on offer") : null;
  return element("th", { scope: "row" }, version, element("span", { class: "small muted range-text" }, variant, offer && " ", offer));
}

function said(version) {
  const found = SIGNS.map(([sign, kind]) => [sign, kind, version.said?.[`${sign}_follow_ups`]]);
  const drawn = found.filter(([, , share]) => share);
  const text = drawn.map(([sign, , share]) => `${sign} ${percent(share.value)}, from ${percent(share.low)} to ${percent(share.high)}`);
  const picture = drawn.length ? intervals(text.join("; "), drawn.map(([, kind, share]) => ({ ...share, kind }))) : none("none decoded yet");
  const of = `${count(version.decoded)} of ${count(version.follow_ups)}`;
  return element("tr", {}, name(version), ...found.map(([, , share]) => estimate(share, percent)), cell(picture), number(of));
}

function pair({ versions: [first, second], conversations, compared }, widest) {
  const title = element("th", { scope: "row" }, second, element("span", { class: "small muted range-text" }, `minus ${first}`));
  const each = cell(count(conversations[1]), element("span", { class: "small muted range-text" }, count(conversations[0])));
  if (!compared) return element("tr", {}, title, cell(none("–")), cell(none("–")), cell(none("one has none decoded yet")), each, cell(none("–")));
  const { negative_difference: negative, positive_difference: positive, needed } = compared;
  const text = [negative, positive].map((found, place) => `${["negative", "positive"][place]} ${change(found.value)} points, from ${change(found.low)} to ${change(found.high)}`);
  const picture = intervals(text.join("; "), [{ ...negative, kind: "bad" }, { ...positive, kind: "good" }], -widest, widest);
  return element("tr", {}, title, estimate(negative, change), estimate(positive, change), cell(picture), each, decision(needed, Math.min(...conversations)));
}

function decision(needed, fewest) {
  if (needed === null) return cell(none("follow-ups do not vary yet"));
  const words = fewest >= needed ? "there are enough" : `${count(needed - fewest)} more of each`;
  return cell(element("b", {}, `${count(needed)} of each`), element("span", { class: "small muted range-text" }, words));
}

function replies(version) {
  const counts = ["conversations", "users", "replies", "cut", "failed"].map((field) => number(count(version[field])));
  return element("tr", {}, name(version), ...counts, number(seconds(version.first_token)), number(seconds(version.seconds)));
}

function render({ evidence, every }) {
  show($("known"), evidence !== null);
  say($("state"), evidence === null ? "The evidence is being computed; this page will show it." : "");
  show($("state"), evidence === null);
  if (!evidence) return;
  const { versions, pairs, decoder, round, age } = evidence;
  const total = (field) => versions.reduce((sum, version) => sum + version[field], 0);
  $("said").replaceChildren(...versions.map(said));
  $("replies").replaceChildren(...versions.map(replies));
  show($("by-pair"), pairs.length > 0);
  const bounds = pairs.flatMap(({ compared }) => (compared ? [compared.negative_difference, compared.positive_difference] : []));
  const widest = Math.max(0.05, ...bounds.map(({ low, high }) => Math.ceil(10 * Math.max(-low, high)) / 10));
  say($("scale"), `−${Math.round(100 * widest)} to +${Math.round(100 * widest)} points`);
  say($("effect"), `${Math.round(100 * (pairs.find(({ compared }) => compared)?.compared.effect ?? 0.05))} points`);
  $("pairs").replaceChildren(...pairs.map((each) => pair(each, widest)));
  const by = decoder === null ? "no round has decoded any" : `${count(total("decoded"))} decoded by ${decoder}, up to round ${round}`;
  const aside = total("set_aside") ? `, ${count(total("set_aside"))} set aside` : "";
  const waiting = total("waiting") ? ` ${count(total("waiting"))} wait for the next round, or for "respect decode".` : "";
  say($("decoded"), `${count(total("follow_ups"))} follow-ups: ${by}${aside}.${waiting}`);
  say($("updated"), `Computed ${Math.round(age)} seconds ago, every ${Math.round(every)} seconds, from the last replies of all gateways on this store.`);
}

watch("/operator/api", "live", render, LOOK_AGAIN);
