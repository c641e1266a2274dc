// The list of models: a line for each, and its versions when it is opened.

import { element, foreign, shape, unseen } from "./dom.js";
import { ago, bytes, count, duration, none, percent, perSecond, plural } from "./format.js";
import { rolloutBlock, rolloutLine } from "./rollout.js";

const ACTIVE = ["Progressing", "Paused", "Degraded"];
const COLUMNS = ["Model", "Calls go to", "Workers", "Memory", "Calls", "Errors", "Latency p50 / p95"];

/** Make the list; `view` has the time, the words of the filter, and the histories that were fetched. */
export function modelList(models, view) {
  const shown = models.filter((model) => isMatch(model, view.words));
  if (!shown.length) {
    return element("p", { class: "empty" }, `None of ${plural(models.length, "model")} matches the filter.`);
  }
  return [
    element("div", { class: "columns", "aria-hidden": "true" }, COLUMNS.map((name) => element("span", {}, name))),
    element("ul", { class: "models" }, shown.map((model) => modelItem(model, models.length, view))),
  ];
}

/** What is shown where the config has no models. */
export function noModels(status) {
  if (!status.generation) return element("p", { class: "empty" }, "The gateway has just started, and does not know yet what runs.");
  return element(
    "div",
    { class: "empty" },
    element("p", {}, "No models are served. Kitserve runs, and its config names none."),
    element("p", {}, "Name a kit in the config, and put it in force:"),
    element("pre", {}, "models:\n  - {name: iris, kit: registry.example.com/team/iris:v1}"),
    element("pre", {}, "kitserve apply kitserve.yaml"),
  );
}

/** Sum up what versions did in the last minute; null where nobody knows yet. */
export function recentOf(versions) {
  const measured = versions.map((version) => version.recent).filter(Boolean);
  if (!measured.length) return null;
  return {
    rate: sum(measured, (recent) => recent.rate),
    calls: sum(measured, (recent) => recent.calls),
    errors: sum(measured, (recent) => recent.errors),
  };
}

export const sum = (items, value) => items.reduce((total, item) => total + value(item), 0);

/** A state by a sign and a word. */
export function stateMark(state) {
  return element("span", { class: `state ${state}` }, element("span", { class: "mark", "aria-hidden": "true" }), state);
}

function isMatch(model, words) {
  const text = [model.name, model.state, model.rollout?.phase ?? "", ...model.versions.map((version) => version.tag)].join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

function modelItem(model, total, view) {
  const isActive = ACTIVE.includes(model.rollout?.phase);
  const isOpen = total <= 2 || isActive || model.state === "failed";
  return element(
    "li",
    { "data-key": `model ${model.name}`, class: `model ${model.state}` },
    element(
      "details",
      { open: isOpen },
      modelLine(model),
      element(
        "div",
        { class: "inside" },
        isNews(model) && element("p", { class: "reason" }, foreign(model.message)),
        model.retry && retryLine(model.retry),
        model.rollout && isActive && rolloutBlock(model, view),
        versionTable(model, view.now),
        model.rollout && !isActive && rolloutBlock(model, view),
      ),
    ),
  );
}

/** Whether a model's message says more than that of its rollout, which is shown besides. */
function isNews({ message, rollout }) {
  return message && !(rollout?.phase === "Degraded" && rollout.message && message.endsWith(rollout.message));
}

function modelLine(model) {
  const { versions } = model;
  const recent = recentOf(versions);
  const main = versions.find((version) => version.role === "stable") ?? versions[0];
  return element(
    "summary",
    {},
    element(
      "span",
      { class: "cell name" },
      stateMark(model.state),
      element("span", {}, foreign(model.name, { class: "title" }), model.rollout && rolloutLine(model.rollout)),
    ),
    element("span", { class: "cell split" }, split(versions)),
    cell("Workers", count(sum(versions, (version) => version.replicas))),
    cell("Memory", memory(sum(versions, (version) => version.memory_bytes))),
    cell("Calls", recent ? perSecond(recent.rate) : none("not known yet")),
    cell("Errors", errors(recent)),
    cell("Latency p50 / p95", latency(main?.recent)),
  );
}

function cell(label, ...content) {
  return element("span", { class: "cell" }, element("span", { class: "label" }, label), element("span", { class: "value" }, content));
}

function retryLine(retry) {
  const when = retry.is_trying ? "it is tried again now" : `tried again in ${duration(Math.max(1, Math.round(retry.seconds)))}`;
  return element("p", { class: "reason" }, foreign(retry.reason), ` (${plural(retry.tries, "try").replace("trys", "tries")}; ${when})`);
}

/** Which version gets which share of the calls: as a bar, and in words. */
function split(versions) {
  const routed = versions.filter((version) => version.role);
  if (!routed.length) return element("span", { class: "none" }, "no version yet");
  let start = 0;
  const parts = routed.map((version) => {
    const part = shape("rect", { class: version.role, x: `${start}%`, y: 0, width: `${version.weight}%`, height: "100%" });
    start += version.weight;
    return part;
  });
  return [
    shape("svg", { class: "bar", "aria-hidden": "true", focusable: "false" }, parts),
    element(
      "span",
      { class: "shares" },
      routed.map((version) =>
        element(
          "span",
          { class: `share ${version.role}` },
          element("span", { class: "swatch", "aria-hidden": "true" }),
          foreign(version.tag, { class: "tag" }),
          ` ${version.weight}\u202f%`,
          version.role === "canary" && " canary",
        ),
      ),
    ),
  ];
}

const memory = (amount) => (amount ? bytes(amount) : none("no worker reports any"));

function errors(recent) {
  if (!recent?.calls) return none("no calls in the last minute");
  const share = recent.errors / recent.calls;
  return element("span", { class: share ? "bad" : null, title: `${count(recent.errors)} of ${count(recent.calls)} calls in the last minute` }, percent(share));
}

function latency(recent) {
  if (recent?.median == null) return none("no calls in the last minute");
  return `${duration(recent.median)} / ${duration(recent.p95)}`;
}

function versionTable(model, now) {
  if (!model.versions.length) return null;
  const heads = ["Version", "Calls go here", "Workers", "Memory", "Calls", "Errors", "Latency p50 / p95", "Since start"];
  return element(
    "table",
    { class: "versions" },
    element("caption", { class: "unseen" }, "Versions of ", foreign(model.name)),
    element("colgroup", {}, heads.map(() => element("col"))),
    element("thead", {}, element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)))),
    model.versions.map((version) => versionRows(version, now)),
  );
}

function versionRows(version, now) {
  const recent = version.recent && recentOf([version]);
  const key = `version ${version.app}`;
  return element(
    "tbody",
    { "data-key": key },
    element(
      "tr",
      {},
      element("th", { scope: "row" }, foreign(version.tag, { class: "tag" }), version.role && element("span", { class: `role ${version.role}` }, version.role), stateMark(version.state)),
      labelled("Calls go here", version.role ? `${version.weight}\u202f%` : none("no calls go here unless they name it")),
      labelled("Workers", count(version.replicas)),
      labelled("Memory", memory(version.memory_bytes)),
      labelled("Calls", recent ? perSecond(recent.rate) : none("not known yet")),
      labelled("Errors", errors(recent)),
      labelled("Latency p50 / p95", latency(version.recent)),
      labelled("Since start", sinceStart(version.calls)),
    ),
    element("tr", { class: "facts" }, element("td", { colspan: 8 }, facts(version, now))),
  );
}

function labelled(label, ...content) {
  return element("td", { "data-label": label }, content);
}

function sinceStart(calls) {
  const words = [calls.errors && `${plural(calls.errors, "error")} (5xx)`, calls.refused && `${count(calls.refused)} refused (4xx)`].filter(Boolean);
  return [plural(calls.all, "call"), words.length > 0 && element("small", {}, words.join(", "))];
}

function facts(version, now) {
  const rows = [
    ["Digest", digest(version.digest)],
    ["Signed by", version.signed_by ? foreign(version.signed_by) : "not asked for"],
    ["Licence", version.license === null ? none("known once it was ready") : version.license ? foreign(version.license) : "none stated"],
    ["Runtime", version.runtime ? foreign(version.runtime) : none("not known yet")],
    ["Kit", foreign(version.reference.replace(/@sha256:[0-9a-f]{64}$/, ""), { title: version.reference })],
    ["About", version.about && foreign(version.about)],
    ["Last call", version.last_call ? ago(version.last_call, now) : "none yet"],
    ["Now", version.ongoing > 0 && `${plural(version.ongoing, "call")} inside, ${count(version.queued)} waiting`],
    ["Restarts", version.restarts > 0 && count(version.restarts)],
    ["Tokens", version.generation && tokens(version.generation)],
    ["Note", version.note && foreign(version.note)],
    ["Not contained by", missing(version.workers)],
  ];
  return [
    element(
      "dl",
      { class: "facts" },
      rows.filter(([, value]) => value).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
    ),
    version.workers.length > 1 && workerList(version.workers),
  ];
}

function digest(text) {
  const [, algorithm, hex] = /^([a-z0-9]+):(.+)$/.exec(text) ?? [null, "", text];
  return element(
    "button",
    { type: "button", class: "digest", title: `${text}: copy`, "data-copy": text },
    unseen(`Copy ${algorithm} digest `),
    hex.slice(0, 12),
  );
}

function tokens(generation) {
  const speed = generation.tokens_per_second && `${generation.tokens_per_second.toFixed(1)} tokens/s`;
  const first = generation.first_token_seconds && `first token after ${duration(generation.first_token_seconds)}`;
  return [`${count(generation.input_tokens)} in, ${count(generation.output_tokens)} out`, speed, first, `${plural(generation.generating, "call")} now`].filter(Boolean).join("; ");
}

const missing = (workers) => [...new Set(workers.flatMap((worker) => worker.not_contained))].join(", ");

function workerList(workers) {
  return element(
    "details",
    { class: "workers" },
    element("summary", {}, plural(workers.length, "worker")),
    element("ul", {}, workers.map((worker) => element("li", {}, element("code", {}, foreign(worker.worker)), " ", memory(worker.memory_bytes)))),
  );
}
