// The server's endpoints: Gradio's queue for what takes the model, plain requests for all else.

export class Stopped extends Error {}

const session = () => crypto.getRandomValues(new Uint32Array(3)).join("-");

async function* messages(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

// The steps that are done, of a first message, and of later ones, which hold what has changed.
function stepsDone(output, before) {
  const [news] = output.data;
  if (!Array.isArray(news)) return "done" in news ? { done: news.done, total: news.total } : before;
  const now = { ...before };
  for (const [action, path, value] of news) if (action === "replace" && path.length === 1) now[path[0]] = value;
  return now;
}

// Calls an endpoint. `told` gets {waiting: places} or {done, total}; `signal` (AbortSignal) stops it.
export async function call(index, data, told, signal) {
  const hash = session();
  const send = (path, body) =>
    fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (signal.aborted) throw new Stopped();
  const joined = await send("/gradio_api/queue/join", { data, fn_index: index, session_hash: hash });
  if (!joined.ok) throw new Error(`the server refused: ${(await joined.json()).detail ?? joined.status}`);
  const { event_id } = await joined.json();
  const stop = () => send("/gradio_api/cancel", { session_hash: hash, fn_index: index, event_id });
  signal.addEventListener("abort", stop, { once: true });
  try {
    const stream = await fetch(`/gradio_api/queue/data?session_hash=${hash}`);
    let steps = { done: 0, total: 1 };
    for await (const message of messages(stream)) {
      if (signal.aborted) throw new Stopped();
      if (message.msg === "estimation") told({ waiting: message.rank + 1 });
      if (message.msg === "process_starts") told(steps);
      if (message.msg === "process_generating" && message.success) told((steps = stepsDone(message.output, steps)));
      if (message.msg === "process_completed") {
        if (!message.success) throw new Error(message.output.error ?? "the server failed; its terminal says why");
        return message.output.data[0];
      }
      if (message.msg === "unexpected_error") throw new Error(message.message);
    }
    throw new Error("the server stopped answering; is it still running?");
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

async function answered(response) {
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error ?? `the server answered ${response.status}`);
}

export const start = async () => (await answered(await fetch("/demo/start"))).json();

const MOST_BYTES = 32 * 2 ** 20;

export async function upload(file) {
  if (file.size > MOST_BYTES)  // said here too, so that it need not be sent first
    throw new Error(`${file.name}: larger than 32 MB. A pad holds a short sound: cut it out of the file first.`);
  const where = `/demo/upload?name=${encodeURIComponent(file.name)}`;
  return (await answered(await fetch(where, { method: "POST", body: file }))).json();
}

// The window of a track from `begin`, s, on.
export async function track(file, begin) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name}: larger than 32 MB. Cut what is wanted out of it first.`);
  const where = `/demo/track?name=${encodeURIComponent(file.name)}&begin=${begin}`;
  return (await answered(await fetch(where, { method: "POST", body: file }))).json();
}

// The part and choke group that each pad would have in a kit.
export const keys = async (pads) =>
  (await answered(await fetch("/demo/keys", { method: "POST", body: JSON.stringify({ pads }) }))).json();

export const kit = async (asked) =>
  (await answered(await fetch("/demo/kit", { method: "POST", body: JSON.stringify(asked) }))).blob();
