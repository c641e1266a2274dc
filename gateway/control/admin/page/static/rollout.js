// A rollout: its steps, what its checks have found so far, what may be ordered, and what happened before.

import { element, foreign, shape, unseen } from "./dom.js";
import { ago, clock, count, duration, none, percent, plural } from "./format.js";

const ORDERS = [
  ["promote", "Promote"],
  ["promote_all", "Promote to the end"],
  ["abort", "Abort"],
  ["retry", "Retry"],
  ["rollback", "Roll back"],
];
const SIGNS = { Successful: "✓", Failed: "✕", Inconclusive: "…", Error: "!" };

/** A rollout in a few words, for the line of its model; nothing where none is on its way. */
export function rolloutLine(rollout) {
  if (rollout.phase === "Healthy") return null;
  const place = `step ${rollout.step} of ${rollout.steps.length}`;
  const words = !rollout.step ? `rollout ${rollout.phase.toLowerCase()}` : rollout.phase === "Paused" ? `paused at ${place}` : place;
  return element("span", { class: `phase ${rollout.phase}` }, words);
}

/** All of a rollout. */
export function rolloutBlock(model, view) {
  const { rollout } = model;
  const isOver = rollout.phase === "Healthy";
  return element(
    "section",
    { class: `rollout ${rollout.phase}`, "data-key": "rollout", "aria-label": `Rollout of ${model.name}` },
    element("h3", {}, title(rollout), element("span", { class: `phase ${rollout.phase}` }, rollout.phase), rollout.reason && element("small", {}, rollout.reason)),
    rollout.message && element("p", { class: "message" }, foreign(rollout.message)),
    !isOver && stepList(rollout),
    !isOver && progress(rollout),
    !isOver && checkTable(rollout, view),
    model.orders && orderButtons(model, view),
    historyBlock(model, view),
  );
}

/** The key under which a model's history is kept: another one once something has happened. */
export function historyKey(model) {
  const { rollout } = model;
  return [rollout.number, rollout.phase, rollout.reason, rollout.step, rollout.message].join("\n");
}

function title(rollout) {
  if (!rollout.number) return element("span", {}, "No rollout so far");
  const from = foreign(rollout.stable.tag, { class: "tag", title: rollout.stable.digest });
  const to = rollout.canary && foreign(rollout.canary.tag, { class: "tag", title: rollout.canary.digest });
  return element("span", {}, `Rollout ${rollout.number}: `, from, to && [element("span", { "aria-hidden": "true" }, " → "), unseen(" to "), to]);
}

function stepList(rollout) {
  const present = rollout.step;
  return element(
    "ol",
    { class: "steps" },
    rollout.steps.map((text, index) => step(text, index + 1, present)),
    element("li", { class: "end" }, element("span", { class: "dot", "aria-hidden": "true" }), element("b", {}, "100\u202f%"), element("small", {}, "promoted")),
  );
}

function step(text, number, present) {
  const place = number < present ? "done" : number === present ? "now" : "next";
  const [weight, ...rest] = text.split(", ");
  return element(
    "li",
    { class: place, "aria-current": place === "now" ? "step" : null },
    element("span", { class: "dot", "aria-hidden": "true" }, place === "done" ? "✓" : ""),
    unseen(place === "done" ? "Passed: " : place === "now" ? "Now: " : ""),
    element("b", {}, weight.replace(/^weight /, "").replace(" %", "\u202f%")),
    element("small", {}, foreign(rest.join(", "))),
  );
}

function progress(rollout) {
  if (!rollout.step) return null;
  const held = rollout.held < 60 ? `${rollout.held.toFixed(0)}\u202fs` : duration(rollout.held);
  const words = rollout.hold ? `${held} at this step, of at least ${duration(rollout.hold)}` : `${held} at this step, which a person ends`;
  const mirrored = rollout.mirror ? `; ${percent(rollout.mirror)} of the stable version's calls are mirrored` : "";
  return element(
    "p",
    { class: "progress" },
    rollout.hold > 0 && element("progress", { max: rollout.hold, value: Math.min(rollout.held, rollout.hold), "aria-label": "Time at this step" }),
    `${words}${mirrored}`,
    rollout.restarts > 0 && `; the canary's workers died ${plural(rollout.restarts, "time")}`,
  );
}

function checkTable(rollout, view) {
  if (!rollout.verdicts.length) return null;
  return element(
    "table",
    { class: "checks" },
    element("caption", { class: "unseen" }, "Checks of the canary"),
    element("thead", {}, element("tr", {}, ["Check", "Verdict", "What was measured", "Evidence"].map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, rollout.verdicts.map((verdict) => checkRow(verdict, view))),
  );
}

function checkRow(verdict, view) {
  return element(
    "tr",
    { "data-key": `check ${verdict.check}` },
    element("th", { scope: "row" }, verdict.check.replaceAll("_", " ")),
    element("td", { "data-label": "Verdict" }, outcome(verdict.outcome)),
    element("td", { "data-label": "Measured" }, element("div", { class: "measured" }, foreign(verdict.message), numbers(verdict.numbers))),
    element("td", { "data-label": "Evidence" }, evidence(verdict.numbers, view.miss)),
  );
}

function outcome(word) {
  return element("span", { class: `outcome ${word}` }, element("span", { class: "sign", "aria-hidden": "true" }, SIGNS[word] ?? "?"), word);
}

function numbers(values) {
  const entries = Object.entries(values);
  if (!entries.length) return null;
  return element(
    "details",
    { class: "numbers" },
    element("summary", {}, "Numbers"),
    element("dl", {}, entries.map(([name, value]) => element("div", {}, element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, written(name, value))))),
  );
}

function written(name, value) {
  if (name.endsWith("_seconds")) return duration(value);
  return Number.isInteger(value) ? count(value) : value.toPrecision(3);
}

/** How near a check is to its verdict: to failed on the left, to passed on the right. */
function evidence(values, miss) {
  const { p_worse: worse, p_within: within, alarm } = values;
  if (worse === undefined || within === undefined) return none("decided by a count");
  const share = (chance, limit) => Math.min(1, Math.max(0, Math.log(Math.max(chance, 1e-300)) / Math.log(limit)));
  const [failing, passing] = [share(worse, alarm), share(within, miss)];
  const words = `${percent(passing)} of what passing takes, ${percent(failing)} of what failing takes`;
  return [
    element("small", { "aria-hidden": "true" }, nearest(failing, passing)),
    shape(
      "svg",
      { class: "evidence", role: "img", "aria-label": words },
      shape("rect", { class: "track", x: 0, y: "35%", width: "100%", height: "30%" }),
      shape("rect", { class: "worse", x: `${50 - failing * 50}%`, y: "15%", width: `${failing * 50}%`, height: "70%" }),
      shape("rect", { class: "within", x: "50%", y: "15%", width: `${passing * 50}%`, height: "70%" }),
      shape("rect", { class: "middle", x: "49.6%", y: 0, width: "0.8%", height: "100%" }),
    ),
  ];
}

function nearest(failing, passing) {
  if (failing >= 1) return "enough to fail";
  if (passing >= 1) return "enough to pass";
  return failing > passing ? `${percent(failing)} to failed` : `${percent(passing)} to passed`;
}

function orderButtons(model, view) {
  return element(
    "div",
    { class: "orders", role: "group", "aria-label": `Orders to the rollout of ${model.name}` },
    ORDERS.map(([order, words]) => {
      const refusal = model.orders[order];
      const isBack = order === "rollback" && model.orders.rollback_to;
      return element(
        "button",
        {
          type: "button",
          "data-key": order,
          "data-order": order,
          "data-model": model.name,
          class: order === "promote" && !refusal ? "primary" : order === "abort" && !refusal ? "danger" : null,
          "aria-disabled": refusal ? "true" : null,
          title: refusal || null,
        },
        words,
        isBack && [" to ", foreign(model.orders.rollback_to.tag)],
        refusal && unseen(`: not now, ${refusal}`),
      );
    }),
    element("p", { class: "refusal", role: "status", "data-key": "refusal" }, foreign(view.refusals.get(model.name) ?? "")),
  );
}

function historyBlock(model, view) {
  const history = view.histories.get(model.name);
  return element(
    "details",
    { class: "history", "data-key": "history", "data-history": model.name },
    element("summary", {}, "History"),
    !history ? element("p", {}, "Loading.") : history.error ? element("p", { class: "error" }, history.error) : events(history.events, view.now),
  );
}

function events(list, now) {
  if (!list.length) return element("p", {}, "Nothing has happened yet.");
  return element(
    "ol",
    { class: "events" },
    list.map((event) =>
      element(
        "li",
        {},
        element("span", { class: "when" }, ago(event.time, now), element("small", {}, clock(event.time * 1000))),
        element(
          "span",
          { class: "what" },
          element("span", { class: `phase ${event.phase}` }, event.phase),
          ` rollout ${event.number}, `,
          named(event.stable),
          event.canary && [element("span", { "aria-hidden": "true" }, " → "), unseen(" to "), named(event.canary), ` at ${event.weight}\u202f%`],
          element("span", { class: "message" }, event.reason && element("b", {}, event.reason), " ", foreign(event.message)),
        ),
      ),
    ),
  );
}

/** A revision by its tag, or the beginning of its digest. */
function named(revision) {
  const [, tag, hex] = /(?::([^:/@]+))?@[a-z0-9]+:([0-9a-f]+)$/.exec(revision) ?? [null, revision, ""];
  return foreign(tag || hex.slice(0, 12), { class: "tag", title: revision });
}
