// The page: its state, what each control does to it, and what is shown of it.

import * as api from "./api.js";
import { draw } from "./draw.js";
import { build } from "./grid.js";
import { PATTERNS, Sequencer, patternOf, render } from "./sequencer.js";
import { bufferOf, decode, encode, ring, save, wav } from "./sound.js";

const $ = (id) => document.getElementById(id);
const KEYS = ["Digit1", "Digit2", "Digit3", "Digit4", "KeyQ", "KeyW", "KeyE", "KeyR", "KeyA", "KeyS", "KeyD", "KeyF",
  "KeyZ", "KeyX", "KeyC", "KeyV"];  // by place, so that they lie the same on any keyboard
const EACH = 4;  // sounds of one call: others come in between, and the first are heard soon
const MOST_UNDO = 50;

const facts = await api.start();
const state = {
  pads: facts.pads.map(({ label, number, sound }) =>
    ({ ...fresh(label, number, defaults()), sound: decode(sound), hue: hueOf(label) })),
  pattern: Array.from({ length: 16 }, () => Array(16).fill(0)),
  current: 0,
  selected: new Set(),
};
const past = [];
let job = null;

// Sound

const context = new AudioContext({ sampleRate: facts.rate, latencyHint: "interactive" });
const out = new GainNode(context, { gain: 0.8 });
out.connect(context.destination);
const beat = () => ({
  pattern: state.pattern, sounds: state.pads.map((pad) => pad.sound), tempo: number("tempo", 96), swing: +$("swing").value,
});
const grid = build($("grid"), setStep);
const sequencer = new Sequencer(context, out, beat, grid.mark);

function playPad(i) {
  context.resume();
  const source = new AudioBufferSourceNode(context, { buffer: bufferOf(state.pads[i].sound) });
  source.connect(out);
  source.start();
  const pad = $("pads").children[i];
  pad.classList.remove("struck"), void pad.offsetWidth, pad.classList.add("struck");
}

async function togglePlay() {
  if (sequencer.playing) sequencer.end();
  else {
    await context.resume();
    sequencer.begin(new Worker("/page/clock.js"));
  }
  $("play").textContent = sequencer.playing ? "Stop" : "Play";
  $("play").setAttribute("aria-pressed", sequencer.playing);
}

// What pads are

function hueOf(label) {
  const main = label.split("+").map((part) => part.split(":")).sort((a, b) => (b[1] ?? 1) - (a[1] ?? 1))[0][0];
  return Math.max(0, facts.labels.indexOf(main)) % 5;
}

function defaults() {
  return { sampler: facts.samplers[0], steps: facts.steps, guidance: facts.guidance, seed: facts.seed };
}

// A pad that is made from noise alone, and the command that makes the same.
function fresh(label, place, settings) {
  const word = /^[\w:.+-]+$/.test(label) ? label : `'${label.replaceAll("'", "'\\''")}'`;
  const own = settings.sampler === facts.samplers[0] && settings.steps === facts.steps;
  const command = [`diffwave-sde sample --ckpt ${facts.model}`, facts.labels.length ? `--label ${word}` : "",
    `--seed ${settings.seed} --n ${place + 1}`,
    own ? "" : `--sampler ${settings.sampler}${settings.steps ? ` --sampler.steps ${settings.steps}` : ""}`,
    settings.guidance === facts.guidance ? "" : `--guidance.weight ${settings.guidance}`];
  return { label, seed: settings.seed, hue: hueOf(label), command: command.filter(Boolean).join(" "),
    how: `new, sound ${place} of seed ${settings.seed}` };
}

function change(pads) {
  remember();
  for (const [i, pad] of pads) state.pads[i] = pad;
  showPads();
}

function remember() {
  past.push({ pads: [...state.pads], pattern: state.pattern.map((row) => [...row]) });
  if (past.length > MOST_UNDO) past.shift();
  $("undo").disabled = false;
}

function undo() {
  if (!past.length) return;
  Object.assign(state, past.pop());
  $("undo").disabled = !past.length;
  showPads(), showGrid();
  say("Undone");
}

function setStep(pad, step, velocity, first) {
  if (first) remember();
  state.pattern[pad][step] = velocity;
  showGrid();
}

// What takes the model

const number = (id, otherwise) => {
  const { value, min, max } = $(id);
  return value === "" || !Number.isFinite(+value) ? otherwise : Math.min(+max || Infinity, Math.max(+min, +value));
};

// The settings of the next sounds; another seed unless it is to be kept.
function settings() {
  if (!$("lock").checked) $("seed").value = Math.floor(Math.random() * 1e9);
  const steps = $("steps").disabled ? null : Math.round(number("steps", facts.steps));
  return { sampler: $("sampler").value, steps, guidance: +$("guidance").value, seed: Math.round(number("seed", 0)) };
}

function labelFor(i) {
  const chosen = document.querySelector('input[name="class"]:checked')?.value;
  if (chosen === undefined || chosen === "its own") return state.pads[i].label;
  if (chosen !== "a mix") return chosen;
  const shares = facts.labels.map((label, k) => [label, +$(`share-${k}`).value]).filter(([, share]) => share > 0);
  if (!shares.length) throw new Error("the mix has no class in it: move a slider up");
  const total = shares.reduce((sum, [, share]) => sum + share, 0);
  if (shares.length === 1) return shares[0][0];
  return shares.map(([label, share]) => `${label}:${+(share / total).toFixed(3)}`).join("+");
}

function showJob(told, before, all) {
  if (told.waiting !== undefined) {
    // Others are told of; one's own place at the very front is over at once.
    clearTimeout(job.soon);
    job.soon = setTimeout(() => say(`Waiting in the queue, ${told.waiting} to go: the model is busy for someone else`), 400);
    return;
  }
  clearTimeout(job.soon);
  const share = before + (told.done / told.total) * (job.share ?? 1);
  $("progress").value = share / all;
  say(`${job.what}: ${Math.round((100 * share) / all)} %`);
}

// One thing at a time for a page: `work(call)` may call endpoints one after the other.
async function run(what, pads, work) {
  if (job) return;
  job = { what, stop: new AbortController() };
  complain(null), say(what);
  $("progress").hidden = $("cancel").hidden = false;
  busy(true, pads);
  try {
    await work();
    say("Ready");
  } catch (error) {
    if (error instanceof api.Stopped || job.stop.signal.aborted) say("Cancelled");
    else say("Ready"), complain(error.message);
  } finally {
    clearTimeout(job.soon);
    job = null;
    busy(false, pads);
    $("progress").hidden = $("cancel").hidden = true;
    $("progress").value = 0;
  }
}

const NEEDS = ["all", "chosen", "one", "vary", "inpaint", "morph"];

function busy(yes, pads) {
  for (const id of NEEDS) $(id).disabled = yes || (id === "chosen" && !state.selected.size);
  for (const i of pads) $("pads").children[i].classList.toggle("waiting", yes);
}

const call = async (endpoint, data, before = 0, all = 1) =>
  (await api.call(facts.endpoints[endpoint], data, (told) => showJob(told, before, all), job.stop.signal)).sounds.map(decode);

function generate(pads) {
  return run(pads.length > 1 ? `Making ${pads.length} sounds` : "Making a sound", pads, async () => {
    const labels = pads.map(labelFor), how = settings();
    let undone = false;
    for (let first = 0; first < pads.length; first += EACH) {
      const some = pads.slice(first, first + EACH);
      job.share = some.length;
      const asked = labels.slice(first, first + EACH);
      const sounds = await call("generate", [asked, some, how], first, pads.length);
      if (!undone) remember(), (undone = true);  // all of it is one thing to undo
      some.forEach((i, k) => { state.pads[i] = { ...fresh(asked[k], i, how), sound: sounds[k] }; });
      busy(false, some), busy(true, []);
      showPads();
    }
  });
}

function edit(what, endpoint, data, told) {
  const i = state.current, pad = state.pads[i];
  return run(what, [i], async () => {
    const how = settings();
    const [sound] = await call(endpoint, data(pad, how, i));
    change([[i, { ...pad, sound, seed: how.seed, command: "", how: `${told(i)}, seed ${how.seed}` }]]);
    playPad(i);
  });
}

const region = () => {
  const last = (1000 * facts.length) / facts.rate;
  const [a, b] = [number("begin", 0), number("end", last)].map((ms) => Math.min(last, ms) / 1000);
  return [Math.min(a, b), Math.max(a, b)];
};

async function openFile(file, i) {
  try {
    complain(null);
    const sound = decode(await api.upload(file));
    change([[i, { ...state.pads[i], sound, seed: null, command: "", how: `the file ${file.name}` }]]);
    playPad(i);
  } catch (error) {
    complain(error.message);
  }
}

// Take away

async function saveBeat() {
  if (!state.pattern.flat().some(Boolean)) return complain("the beat has no step set: choose a pattern first");
  const { samples, rate } = await render(beat(), +$("bars").value, facts.rate);
  let peak = 0;
  for (const x of samples) peak = Math.max(peak, Math.abs(x));
  const most = 10 ** (-1 / 20), gain = peak > most ? most / peak : 1;
  save(wav(gain < 1 ? samples.map((x) => x * gain) : samples, rate, 24), "beat.wav");
  say(gain < 1 ? `Saved, ${(20 * Math.log10(gain)).toFixed(1)} dB, so that it peaks at -1 dBFS` : "Saved");
}

async function saveKit() {
  try {
    complain(null);
    const pads = state.pads.map(({ label, how, sound }) => ({ label, about: how, samples: encode(sound.samples) }));
    const name = $("kit-name").value.trim() || "My kit";
    save(await api.kit({ name, rate: +$("kit-rate").value, pads }), `${name.replaceAll(/[^\w. -]/g, " ")}.zip`);
    say("Saved the kit");
  } catch (error) {
    complain(error.message);
  }
}

// What is shown

function say(text) { $("status").textContent = text; }

function complain(text) {
  $("message").hidden = !text;
  $("message").textContent = text ?? "";
}

function buildPads() {
  for (let i = 0; i < 16; i++) {
    const pad = document.createElement("div");
    pad.className = "pad";
    pad.innerHTML = `<button type="button" class="hit"><canvas></canvas><span class="name"></span>
      <kbd>${KEYS[i].at(-1)}</kbd><span class="seed"></span></button>
      <label class="check"><input type="checkbox"><span class="hidden">Select pad ${i + 1}</span></label>`;
    const button = pad.querySelector(".hit"), box = pad.querySelector("input");
    button.addEventListener("pointerdown", (event) => { if (!event.button) playPad(i), choose(i); });
    button.addEventListener("click", (event) => { if (!event.detail) playPad(i), choose(i); });  // by a key
    box.addEventListener("change", () => {
      state.selected[box.checked ? "add" : "delete"](i);
      $("chosen").textContent = state.selected.size ? `Generate selected (${state.selected.size})` : "Generate selected";
      $("chosen").disabled = !!job || !state.selected.size;
    });
    pad.addEventListener("dragover", (event) => { event.preventDefault(), pad.classList.add("over"); });
    pad.addEventListener("dragleave", () => pad.classList.remove("over"));
    pad.addEventListener("drop", (event) => {
      event.preventDefault(), pad.classList.remove("over");
      const [file] = event.dataTransfer.files;
      if (file) choose(i), openFile(file, i);
    });
    $("pads").append(pad);
    $("other").append(new Option(`pad ${i + 1}`, i));
  }
}

function choose(i) {
  if ($("other").value === String(i)) $("other").value = String(state.current === i ? (i + 1) % 16 : state.current);
  state.current = i;
  showCurrent();
}

function showPads() {
  state.pads.forEach((pad, i) => {
    const element = $("pads").children[i];
    element.style.setProperty("--hue", `var(--hue-${pad.hue})`);
    element.querySelector(".name").textContent = pad.label;
    element.querySelector(".seed").textContent = pad.seed === null ? pad.how : `seed ${pad.seed}`;
    element.querySelector(".hit").setAttribute("aria-label", `Pad ${i + 1}, ${pad.label}, ${pad.how}`);
    draw(element.querySelector("canvas"), pad.sound);
    $("other").options[i].textContent = `${i + 1} ${pad.label}`;
  });
  showCurrent();
  showGrid();
}

function showCurrent() {
  const pad = state.pads[state.current];
  [...$("pads").children].forEach((element, i) => element.classList.toggle("current", i === state.current));
  $("pad-title").textContent = `Pad ${state.current + 1}: ${pad.label}`;
  $("how").textContent = pad.how;
  $("command").textContent = pad.command, $("command").hidden = !pad.command;
  $("wave").style.setProperty("--hue", `var(--hue-${pad.hue})`);
  showWave();
}

function showWave() {
  const seconds = facts.length / facts.rate;
  draw($("wave"), state.pads[state.current].sound, region().map((s) => s / seconds));
}

function showGrid() { grid.show(state.pattern, state.pads); }

function setPattern(name) {
  remember();
  const find = (word, otherwise) => {
    const i = state.pads.findIndex((pad) => pad.label.toLowerCase().startsWith(word));
    return i < 0 ? otherwise : i;
  };
  const kick = find("kick", 0), snare = find("snare", 4);
  // The hat is what rings shortest of all else, the open one what rings longest.
  const rest = state.pads.map((pad, i) => i).filter((i) => ![state.pads[kick].label, state.pads[snare].label]
    .includes(state.pads[i].label));
  const others = (rest.length > 1 ? rest : [8, 12]).sort((a, b) => ring(state.pads[a].sound) - ring(state.pads[b].sound));
  state.pattern = patternOf(name, { kick, snare, hat: others[0], open: others.at(-1) });
  $("tempo").value = PATTERNS[name].tempo, $("swing").value = PATTERNS[name].swing;
  showNumbers(), showGrid();
}

const SHOWN = {
  guidance: (v) => (+v === 1 ? "off" : (+v).toFixed(1)), strength: (v) => `${Math.round(v * 100)} %`,
  amount: (v) => `${Math.round(v * 100)} %`, swing: (v) => `${v} %`, volume: (v) => `${v} %`,
};

function showNumbers() {
  for (const [id, text] of Object.entries(SHOWN)) $(`${id}-shown`).textContent = text($(id).value);
  out.gain.value = (+$("volume").value / 100) ** 2 * 1.25;
}

function buildClasses() {
  if (!facts.labels.length) { $("classes").hidden = true; return; }
  for (const name of ["its own", ...facts.labels, "a mix"]) {
    const label = document.createElement("label"), radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "class", value: name, checked: name === "its own" });
    label.append(radio, name === "its own" ? "the pad's own" : name);
    $("classes").append(label);
  }
  facts.labels.forEach((name, k) => {
    const label = document.createElement("label"), slider = document.createElement("input");
    label.className = "slider";
    Object.assign(slider, { type: "range", min: 0, max: 100, step: 5, value: k < 2 ? 50 : 0, id: `share-${k}` });
    const shown = Object.assign(document.createElement("output"), { textContent: `${slider.value} %` });
    slider.addEventListener("input", () => { shown.textContent = `${slider.value} %`; });
    label.append(name, slider, shown);  // the slider first: a label names the first of them
    $("mix").append(label);
  });
  $("classes").addEventListener("change", (event) => { $("mix").hidden = event.target.value !== "a mix"; });
}

// Controls

function connect() {
  const on = (id, what) => $(id).addEventListener("click", what);
  on("all", () => generate([...Array(16).keys()]));
  on("chosen", () => generate([...state.selected].sort((a, b) => a - b)));
  on("one", () => generate([state.current]));
  on("vary", () => edit("Varying", "vary",
    (pad, how, i) => [encode(pad.sound.samples), pad.label, +$("strength").value, i, how],
    (i) => `a variation of pad ${i + 1}, strength ${$("strength").value}`));
  on("inpaint", () => edit("Remaking the region", "inpaint",
    (pad, how, i) => [encode(pad.sound.samples), pad.label, ...region(), i, how],
    () => `${region().map((s) => Math.round(1000 * s)).join(" to ")} ms made anew`));
  on("morph", () => edit("Morphing", "morph",
    (pad, how) => [encode(pad.sound.samples), encode(state.pads[+$("other").value].sound.samples), pad.label,
      +$("amount").value, how],
    () => `${$("amount-shown").textContent} of the way to pad ${+$("other").value + 1}`));
  on("cancel", () => job?.stop.abort());
  on("undo", undo);
  on("play", togglePlay);
  on("clear", () => { remember(), state.pattern.forEach((row) => row.fill(0)), showGrid(); });
  on("open", () => $("file").click());
  on("wav", () => save(wav(state.pads[state.current].sound.samples, facts.rate),
    `pad-${state.current + 1}-${state.pads[state.current].label.replaceAll(/[^\w.-]+/g, "-")}.wav`));
  on("beat-wav", saveBeat);
  on("kit", saveKit);
  $("file").addEventListener("change", () => {
    if ($("file").files[0]) openFile($("file").files[0], state.current);
    $("file").value = "";
  });
  $("pattern").addEventListener("change", () => setPattern($("pattern").value));
  for (const id of Object.keys(SHOWN)) $(id).addEventListener("input", showNumbers);
  for (const id of ["begin", "end"]) $(id).addEventListener("input", showWave);
  // A file that misses the pads must not replace the page.
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  connectWave();
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.code === "KeyZ" && !event.shiftKey) {
      if (event.target.matches('input[type="text"], input[type="number"]')) return;
      return event.preventDefault(), undo();
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.matches('select, input[type="text"], input[type="number"]')) return;
    const i = KEYS.indexOf(event.code);
    if (i >= 0) playPad(i), choose(i), event.preventDefault();
    if (event.code === "Space" && event.target === document.body) event.preventDefault(), togglePlay();
  });
  addEventListener("resize", showPads);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showPads);
}

function connectWave() {
  const wave = $("wave"), last = (1000 * facts.length) / facts.rate;
  const ms = (event) => {
    const box = wave.getBoundingClientRect();
    return Math.round(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * last);
  };
  let from = null;
  wave.addEventListener("pointerdown", (event) => { from = ms(event), wave.setPointerCapture(event.pointerId); });
  wave.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = ms(event);
    $("begin").value = Math.min(from, to), $("end").value = Math.max(from, to);
    showWave();
  });
  for (const kind of ["pointerup", "pointercancel"]) wave.addEventListener(kind, () => { from = null; });
}

for (const name of facts.samplers) $("sampler").append(new Option(name, name));
for (const name of Object.keys(PATTERNS)) $("pattern").append(new Option(name, name));
$("steps").max = facts.most_steps, $("steps").value = facts.steps ?? 28;
$("guidance").value = facts.guidance, $("guidance").closest("label").hidden = facts.labels.length < 2;
$("seed").value = facts.seed;
$("begin").max = $("end").max = Math.floor((1000 * facts.length) / facts.rate);
$("model").textContent = `model ${facts.model}, ${facts.rate / 1000} kHz, ${(facts.length / facts.rate).toFixed(2)} s`;
buildPads(), buildClasses(), connect();
$("other").value = "4";
setPattern("Boom bap");
past.length = 0, $("undo").disabled = true;
showPads();
say("Ready");
document.documentElement.dataset.ready = "yes";
