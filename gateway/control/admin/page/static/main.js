// The page: what the server tells is kept here, and shown anew each time it changes.

import { element, foreign, update } from "./dom.js";
import { bytes, clock, count, duration, perSecond } from "./format.js";
import { modelList, noModels, recentOf, sum } from "./models.js";
import { askFor, forgetToken, hasToken, prepareOrders } from "./orders.js";
import { historyKey } from "./rollout.js";
import { follow, refusalOf } from "./stream.js";

const part = (id) => document.getElementById(id);
const FINGERPRINT = document.querySelector("meta[name=kitserve-page]").content;
const ANNOUNCE_EVERY = 3000;
const REFUSAL_STAYS = 8000;

let status = null;
let heard = 0;
let connection = { state: "connecting", reason: "", retryAt: 0 };
// How far the server's clock is ahead of this one, in seconds.
let ahead = 0;
const histories = new Map();
const opened = new Set();
const refusals = new Map();
const announcements = [];

const now = () => Date.now() / 1000 + ahead;

function hear(name, data) {
  heard = Date.now();
  if (name === "hello") {
    // The server was upgraded while this page was open.
    if (data.page !== FINGERPRINT) location.reload();
    ahead = data.time - Date.now() / 1000;
    part("about").textContent = `Kitserve ${data.kitserve}`;
  } else if (name === "status") {
    announceChanges(status, data);
    status = data;
    show();
  }
}

function show() {
  if (!status) return;
  const { models } = status;
  const words = part("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const view = { now: now(), words, histories, refusals, miss: status.miss };
  update(part("summary"), summary(models));
  update(part("troubles"), troubles());
  update(part("models"), models.length ? modelList(models, view) : noModels(status));
  part("filter-label").hidden = models.length < 2;
  document.title = title(models);
  for (const model of models) {
    if (model.rollout && opened.has(model.name)) fetchHistory(model);
  }
}

function summary(models) {
  if (!models.length) return [];
  const versions = models.flatMap((model) => model.versions);
  const recent = recentOf(versions);
  const memory = sum(versions, (version) => version.memory_bytes);
  const workers = sum(versions, (version) => version.replicas);
  const answering = models.filter(answers).length;
  return [
    figure(`${count(answering)} of ${count(models.length)}`, models.length === 1 ? "model answers" : "models answer"),
    figure(count(workers), workers === 1 ? "worker" : "workers"),
    figure(memory ? bytes(memory) : "–", "in workers"),
    figure(recent ? perSecond(recent.rate) : "–", "calls, last minute"),
  ];
}

/** Whether calls to a model are answered, if only by the version of before. */
const answers = (model) => model.versions.some((version) => version.role && ["ready", "asleep"].includes(version.state));

const figure = (value, words) => element("span", { class: "figure" }, element("b", {}, value), ` ${words}`);

function troubles() {
  const { models, generation, wanted_generation: wanted, edge, trouble } = status;
  const needy = models.filter((model) => model.state === "failed" || ["Paused", "Degraded"].includes(model.rollout?.phase));
  return [
    trouble && element("p", { class: "trouble" }, element("b", {}, "The gateway: "), foreign(trouble)),
    edge && element("p", { class: "trouble" }, element("b", {}, "The edge: "), foreign(edge)),
    generation > 0 && generation !== wanted && element("p", { class: "notice" }, `Config ${wanted} is being put in force; this is config ${generation}.`),
    needy.length > 0 &&
      models.length > 3 &&
      element(
        "p",
        { class: "notice" },
        "Needs a look: ",
        needy.map((model, index) => [index > 0 && ", ", element("a", { href: "#models", "data-go": model.name }, foreign(model.name))]),
      ),
  ];
}

function title(models) {
  const failed = models.filter((model) => model.state === "failed").length;
  return failed ? `(${failed} failed) Kitserve` : "Kitserve";
}

// What has changed, for those who hear the page: states and steps alone, and not more often than can be heard.

function announceChanges(before, after) {
  if (!before) return;
  const earlier = new Map(before.models.map((model) => [model.name, model]));
  for (const model of after.models) {
    const old = earlier.get(model.name);
    if (!old) announcements.push(`${model.name} is new`);
    else if (old.state !== model.state) announcements.push(`${model.name} is ${model.state}`);
    if (old?.rollout && model.rollout && (old.rollout.phase !== model.rollout.phase || old.rollout.step !== model.rollout.step)) {
      announcements.push(`${model.name}: ${model.rollout.message || model.rollout.phase}`);
    }
  }
}

setInterval(() => {
  if (announcements.length) part("announcer").textContent = announcements.splice(0).slice(-5).join(". ");
}, ANNOUNCE_EVERY);

// The connection.

function connectionChanged(state, reason = "", retryAt = 0) {
  const hasChanged = connection.state !== state;
  // Said once: the banner counts seconds.
  if (hasChanged && state === "lost") announcements.push(`${reason}: what is shown is of before`);
  if (hasChanged && connection.state === "lost") announcements.push("Connected again");
  connection = { state, reason, retryAt };
  if (hasChanged) document.body.dataset.connection = state;
  showConnection();
}

function showConnection() {
  const { state, reason, retryAt } = connection;
  const words = { live: "Live", lost: "Not connected", hidden: "Paused", connecting: "Connecting" }[state];
  if (part("connection").textContent !== words) part("connection").textContent = words;
  part("banner").hidden = state !== "lost";
  if (state === "lost") {
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    const age = heard ? ` What is below is of ${clock(heard)}, ${duration(Math.max(1, Math.round((Date.now() - heard) / 1000)))} ago.` : "";
    update(part("banner-text"), element("b", {}, `${reason}.`), age, element("span", { "aria-hidden": "true" }, ` Next try in ${seconds} s.`));
  }
}

setInterval(() => {
  showConnection();
  // Times grow older also where nothing new comes.
  if (connection.state === "live" && Date.now() - heard > 900) show();
}, 1000);

// Histories are fetched where somebody has opened them, and again once something has happened.

async function fetchHistory(model) {
  const key = historyKey(model);
  if (histories.get(model.name)?.key === key) return;
  const entry = { ...histories.get(model.name), key };
  histories.set(model.name, entry);
  try {
    const answer = await fetch(`/api/models/${encodeURIComponent(model.name)}/rollout/history`, { cache: "no-store" });
    if (!answer.ok) throw new Error(await refusalOf(answer));
    entry.events = (await answer.json()).events;
    entry.error = "";
  } catch (error) {
    entry.error = `The history cannot be shown: ${error.message}.`;
    entry.key = "";
  }
  show();
}

const modelOf = (name) => status?.models.find((model) => model.name === name);

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-order],[data-copy],[data-go]");
  if (!button) return;
  const { order, model: name, copy, go } = button.dataset;
  if (copy) {
    navigator.clipboard?.writeText(copy).then(() => (part("announcer").textContent = "Copied"));
  } else if (go) {
    event.preventDefault();
    const item = document.querySelector(`[data-key="${CSS.escape(`model ${go}`)}"] > details`);
    if (item) item.open = true;
    item?.firstElementChild.focus();
    item?.scrollIntoView({ block: "start" });
  } else {
    const model = modelOf(name);
    const refusal = model?.orders?.[order] ?? "it is not there any more";
    if (connection.state === "lost") refuse(name, "Not now: there is no connection to Kitserve.");
    else if (refusal) refuse(name, `Not now: ${refusal}.`);
    else askFor(order, model);
  }
});

function refuse(name, text) {
  refusals.set(name, text);
  show();
  setTimeout(() => {
    if (refusals.get(name) === text) refusals.delete(name);
    show();
  }, REFUSAL_STAYS);
}

document.addEventListener(
  "toggle",
  (event) => {
    const name = event.target.dataset?.history;
    if (name === undefined) return;
    if (event.target.open) opened.add(name);
    else opened.delete(name);
    const model = modelOf(name);
    if (event.target.open && model?.rollout) fetchHistory(model);
  },
  true,
);

part("filter").addEventListener("input", show);
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, dialog");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !part("filter-label").hidden) {
    event.preventDefault();
    part("filter").focus();
  }
});

const showToken = () => (part("forget").hidden = !hasToken());
part("forget").addEventListener("click", () => {
  forgetToken();
  showToken();
});
prepareOrders((name, words, rollout) => announcements.push(`${words}: ${name}. ${rollout.message}`), showToken);

const again = follow("/api/events", hear, connectionChanged);
part("again").addEventListener("click", again);
