"use strict";
// Sends what is in a model's form, and shows the answer as text. Without this script the page has no forms.
const SHOWN = 50000;
const looksLikeJson = (text) => /^\s*[[{]/.test(text);
const pretty = (text) => {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
};
for (const form of document.querySelectorAll("form.try")) {
  const { body, file } = form.elements;
  const button = form.querySelector("button");
  const state = form.querySelector(".sent");
  const answer = form.querySelector(".answer");
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const image = file && file.files[0];
    const text = body ? body.value : "";
    const type = image ? image.type : looksLikeJson(text) ? "application/json" : "text/csv";
    button.disabled = true;
    answer.hidden = true;
    state.textContent = "Sending…";
    try {
      const response = await fetch(form.dataset.path, {
        method: "POST",
        headers: { "Content-Type": type },
        body: image || text,
      });
      const reply = await response.text();
      const version = response.headers.get("ModelKit-Version");
      state.textContent = `${response.status} ${response.statusText}${version ? `, version ${version}` : ""}`;
      const shown = reply.length > SHOWN ? `${reply.slice(0, SHOWN)}…` : pretty(reply);
      answer.textContent = shown;
      answer.hidden = false;
    } catch (error) {
      state.textContent = `No answer: ${error.message}`;
    }
    button.disabled = false;
  });
}
