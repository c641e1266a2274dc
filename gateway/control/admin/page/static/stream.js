// The events of the server, followed for as long as somebody looks at the page.

const SILENCE = 15_000;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 30_000;

/**
 * Follow the events.
 *
 * `onEvent` is called with the name and the data of each, `onState` with "live", "lost" (and why, and when it is
 * tried again) or "hidden", while nobody sees the page: then it takes no place from those who are seen.
 */
export function follow(path, onEvent, onState) {
  let attempt = null;
  let pause = FIRST_PAUSE;
  let timer = 0;

  async function connect() {
    clearTimeout(timer);
    attempt?.abort();
    if (document.hidden) return;
    const own = (attempt = new AbortController());
    let reason = "Kitserve does not answer";
    try {
      const answer = await fetch(path, { signal: own.signal, cache: "no-store", headers: { Accept: "text/event-stream" } });
      if (!answer.ok) throw new Refusal(await refusalOf(answer));
      await read(answer.body, own, (name, data) => {
        pause = FIRST_PAUSE;
        onState("live");
        onEvent(name, data);
      });
      reason = "Kitserve ended the connection";
    } catch (error) {
      if (error instanceof Refusal) reason = error.message;
    }
    // Another attempt is on its way, or nobody looks.
    if (own !== attempt || document.hidden) return;
    const wait = pause * (0.75 + Math.random() / 2);
    pause = Math.min(pause * 2, LONGEST_PAUSE);
    onState("lost", reason, Date.now() + wait);
    timer = setTimeout(connect, wait);
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(timer);
      attempt?.abort();
      onState("hidden");
    } else {
      connect();
    }
  });
  addEventListener("pagehide", () => attempt?.abort());
  addEventListener("online", connect);
  connect();
  return connect;
}

class Refusal extends Error {}

/** Read events as the HTML standard writes them; one whose sender is silent for too long is over. */
async function read(body, own, onEvent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const silence = setTimeout(() => own.abort(), SILENCE);
    let part;
    try {
      part = await reader.read();
    } finally {
      clearTimeout(silence);
    }
    if (part.done) return;
    text += part.value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const name = lines.find((line) => line.startsWith("event: "))?.slice(7);
      const data = lines.find((line) => line.startsWith("data: "))?.slice(6);
      // A comment says that nothing is new.
      onEvent(name ?? "", data === undefined ? null : JSON.parse(data));
    }
  }
}

/** Say why the server refused something: in its own words, where it has any. */
export async function refusalOf(answer) {
  try {
    const { error } = await answer.json();
    if (typeof error === "string" && error) return error;
  } catch {
    // It is no JSON, and so not Kitserve's own.
  }
  return `Kitserve answered ${answer.status}`;
}
