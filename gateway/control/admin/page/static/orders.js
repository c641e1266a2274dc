// What a person orders of a rollout: asked for once more, sent with the token, and refused in the server's words.

import { refusalOf } from "./stream.js";

const KEPT_AS = "kitserve.token";
const part = (id) => document.getElementById(id);

const WORDS = {
  promote: {
    button: "Promote",
    text: (model) => {
      const { step, steps } = model.rollout;
      return step === steps.length ? "This was the last step: the canary becomes the stable version, and takes all calls." : `The rollout goes on to its next step: ${steps[step]}. What the checks have not found yet is passed over.`;
    },
  },
  promote_all: { button: "Promote to the end", text: () => "The canary becomes the stable version and takes all calls at once. Steps and checks that are left, and gates, are passed over." },
  abort: { button: "Abort", text: (model) => `${model.rollout.stable.tag} takes all calls again. The rollout stays aborted until it is retried, or the config changes.` },
  retry: { button: "Retry", text: () => "The rollout of what the config asks for begins anew, with its gates and all of its steps." },
  rollback: { button: "Roll back", text: (model) => `${model.orders.rollback_to?.tag ?? "The version before"} is loaded and takes all calls, without steps, whatever the config asks for.` },
};

let pending = null;

/** Prepare the dialog; `onDone` is called with what was ordered, and `onToken` when a token comes or goes. */
export function prepareOrders(onDone, onToken) {
  part("dialog-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send(onDone, onToken);
  });
  part("dialog-cancel").addEventListener("click", () => part("dialog").close());
  part("dialog").addEventListener("close", () => {
    pending = null;
    part("token").value = "";
  });
  onToken();
}

export const hasToken = () => sessionStorage.getItem(KEPT_AS) !== null;

export const forgetToken = () => sessionStorage.removeItem(KEPT_AS);

/** Ask a person whether this is to be done. */
export function askFor(order, model) {
  const words = WORDS[order];
  pending = { order, name: model.name };
  part("dialog-title").textContent = `${words.button}: ${model.name}`;
  part("dialog-text").textContent = words.text(model);
  part("dialog-send").textContent = words.button;
  part("dialog-send").disabled = false;
  part("dialog-error").textContent = "";
  part("message-field").hidden = order !== "abort";
  part("message").value = "";
  showTokenField(!hasToken());
  part("dialog").showModal();
  const first = order === "abort" ? "message" : hasToken() ? "dialog-send" : "token";
  part(first).focus();
}

function showTokenField(isShown, isWrong = false) {
  part("token-field").hidden = !isShown;
  part("token").toggleAttribute("aria-invalid", isWrong);
}

async function send(onDone, onToken) {
  if (!pending || part("dialog-send").disabled) return;
  const { order, name } = pending;
  const token = sessionStorage.getItem(KEPT_AS) ?? part("token").value.trim();
  const fields = order === "promote_all" ? { full: true } : order === "abort" && part("message").value ? { message: part("message").value } : {};
  part("dialog-send").disabled = true;
  part("dialog-error").textContent = "";
  try {
    const answer = await fetch(`/api/models/${encodeURIComponent(name)}/rollout/${order === "promote_all" ? "promote" : order}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) },
      body: JSON.stringify(fields),
    });
    if (answer.ok) {
      if (token) sessionStorage.setItem(KEPT_AS, token);
      part("dialog").close();
      onToken();
      onDone(name, WORDS[order].button, await answer.json());
      return;
    }
    if (answer.status === 401) forgetToken();
    refuse(await refusalOf(answer), answer.status === 401);
  } catch {
    refuse("Kitserve does not answer; nothing is known of the order. Look before you send it again.", false);
  }
  onToken();
}

function refuse(message, isForToken) {
  part("dialog-send").disabled = false;
  part("dialog-error").textContent = message;
  if (isForToken) {
    showTokenField(true, true);
    part("token").focus();
    part("token").select();
  }
}
