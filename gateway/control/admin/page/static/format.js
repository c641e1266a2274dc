// Numbers and times as people read them, with units.

import { element, unseen } from "./dom.js";

const COUNT = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const SPACE = "\u202f";

/** Two digits, or all before the point. */
const short = (number) => (number < 100 ? SHORT : WHOLE).format(number);

export const count = (number) => COUNT.format(number);

export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

export function bytes(number) {
  if (number < 1024 ** 2) return `${short(number / 1024)}${SPACE}KiB`;
  if (number < 1024 ** 3) return `${short(number / 1024 ** 2)}${SPACE}MiB`;
  return `${short(number / 1024 ** 3)}${SPACE}GiB`;
}

export function duration(seconds) {
  if (seconds < 0.9995) return `${short(seconds * 1000)}${SPACE}ms`;
  if (seconds < 100) return `${short(seconds)}${SPACE}s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}${SPACE}min`;
  if (seconds < 36 * 3600) return `${Math.round(seconds / 3600)}${SPACE}h`;
  return plural(Math.round(seconds / 86400), "day");
}

export function percent(share) {
  if (share > 0 && share < 0.0005) return `<${SPACE}0.1${SPACE}%`;
  return `${share < 0.1 ? SHORT.format(Math.round(share * 1000) / 10) : Math.round(share * 100)}${SPACE}%`;
}

export const perSecond = (rate) => `${short(rate)}/s`;

export const clock = (milliseconds) => CLOCK.format(milliseconds);

/** A moment as how long ago it was; when exactly, on hover. `seconds` is since 1970 by the server's clock. */
export function ago(seconds, now) {
  const age = Math.max(0, now - seconds);
  const date = new Date(seconds * 1000);
  const words = age < 2 ? "just now" : `${duration(Math.floor(age))} ago`;
  return element("time", { datetime: date.toISOString(), title: MOMENT.format(date) }, words);
}

/** What stands where there is no number, and why for those who do not see the dash. */
export function none(reason) {
  return element("span", { class: "none", title: reason }, element("span", { "aria-hidden": "true" }, "–"), unseen(reason));
}
