// The page: its state, what each control does to it, and what is shown of it.

import * as api from "./api.js";
import { Classes } from "./classes.js";
import { draw, dragged } from "./draw.js";
import { build } from "./grid.js";
import { History } from "./history.js";
import { keep, kept } from "./keep.js";
import { KEYS, build as buildPads } from "./pads.js";
import { PATTERNS, Sequencer, patternOf, render } from "./sequencer.js";
import { decode, encode, save, wav } from "./sound.js";
import { Track } from "./track.js";
import { Voices } from "./voices.js";

const $ = (id) => document.getElementById(id);
const EACH = 4;  // sounds of one call: others come in between, and the first are heard soon

const facts = await api.start();
const state = {
  pads: facts.pads.map(({ label, number, sound }) =>
    ({ ...fresh(label, number, defaults()), sound: decode(sound), hue: hueOf(label) })),
  pattern: Array.from({ length: 16 }, () => Array(16).fill(0)),
  current: 0,
  selected: new Set(),
};
// What pads of another model, or another server's start, are not taken for.
const model = [facts.model, facts.rate, facts.length, facts.labels];
const KEPT = ["tempo", "swing", "volume", "kit-name", "kit-rate", "bars"];
let job = null;

// Sound

const context = new AudioContext({ sampleRate: facts.rate, latencyHint: "interactive" });
const out = new GainNode(context, { gain: 0.8 });
out.connect(context.destination);
const voices = new Voices(context, out);
const beat = () => ({
  pattern: state.pattern, sounds: state.pads.map((pad) => pad.sound),
  groups: state.pads.map((pad) => pad.choke ?? null), tempo: number("tempo", 96), swing: +$("swing").value,
});
const grid = build($("grid"), setStep);
const sequencer = new Sequencer(context, voices, beat, grid.mark);

function playPad(i) {
  context.resume();
  voices.hit(state.pads[i].sound, 127, context.currentTime, state.pads[i].choke);
  track.withPad();
  pads.flash(i);
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

function change(some) {
  remember();
  for (const [i, pad] of some) state.pads[i] = pad;
  showPads();
}

const history = new History(
  () => ({ pads: [...state.pads], pattern: state.pattern.map((row) => [...row]) }),
  (before) => { Object.assign(state, before), showPads(); },
);

function remember() {
  history.remember();
  showHistory();
}

function step(which) {
  if (history[which]()) say(which === "undo" ? "Undone" : "Done again");
  showHistory();
}

function showHistory() {
  $("undo").disabled = !history.past.length, $("redo").disabled = !history.future.length;
}

function setStep(pad, step, velocity, first) {
  if (first) remember();
  state.pattern[pad][step] = velocity;
  showGrid(), keepSoon();
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
  return { sampler: $("sampler").value, steps, guidance: +$("guidance").value, seed: Math.round(number("seed", 0)),
    ...track.settings };
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
async function run(what, some, work) {
  if (job) return;
  job = { what, stop: new AbortController() };
  complain(null), say(what);
  $("progress").hidden = $("cancel").hidden = false;
  busy(true, some);
  try {
    await work();
    say("Ready");
  } catch (error) {
    if (error instanceof api.Stopped || job.stop.signal.aborted) say("Cancelled");
    else say("Ready"), complain(error.message);
  } finally {
    clearTimeout(job.soon);
    job = null;
    busy(false, some);
    $("progress").hidden = $("cancel").hidden = true;
    $("progress").value = 0;
  }
}

const NEEDS = ["all", "chosen", "one", "vary", "inpaint", "morph"];

function busy(yes, some) {
  for (const id of NEEDS) $(id).disabled = yes || (id === "chosen" && !state.selected.size);
  pads.waiting(some, yes);
}

const call = async (endpoint, data, before = 0, all = 1) =>
  (await api.call(facts.endpoints[endpoint], data, (told) => showJob(told, before, all), job.stop.signal)).sounds.map(decode);

function generate(which) {
  return run(which.length > 1 ? `Making ${which.length} sounds` : "Making a sound", which, async () => {
    const labels = which.map((i) => classes.label(state.pads[i].label)), how = settings();
    let undone = false;
    for (let first = 0; first < which.length; first += EACH) {
      const some = which.slice(first, first + EACH);
      job.share = some.length;
      const asked = labels.slice(first, first + EACH);
      const sounds = await call("generate", [asked, some, how], first, which.length);
      if (!undone) remember(), (undone = true);  // all of it is one thing to undo
      some.forEach((i, k) => {
        const made = fresh(asked[k], i, how);
        // The command line's part goes with all of a track, and this one with a window of it.
        if (how.track) made.command = "", made.how += track.how;
        state.pads[i] = { ...made, sound: sounds[k] };
      });
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
    change([[i, { ...pad, sound, seed: how.seed, command: "", how: `${told(i)}, seed ${how.seed}${track.how}` }]]);
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

const pads = buildPads($("pads"), {
  struck: (i) => { playPad(i), choose(i); },
  selected: (i, yes) => {
    state.selected[yes ? "add" : "delete"](i);
    $("chosen").textContent = state.selected.size ? `Generate selected (${state.selected.size})` : "Generate selected";
    $("chosen").disabled = !!job || !state.selected.size;
  },
  dropped: (i, file) => { choose(i), openFile(file, i); },
});
const track = new Track(facts.hears, facts.length / facts.rate, (sound) => {
  context.resume();
  return voices.hit(sound, 127, context.currentTime);
}, complain);
const classes = new Classes($("classes"), $("mix"), facts.labels);

function choose(i) {
  if ($("other").value === String(i)) $("other").value = String(state.current === i ? (i + 1) % 16 : state.current);
  state.current = i;
  showCurrent();
}

function showPads() {
  pads.show(state.pads);
  state.pads.forEach((pad, i) => { $("other").options[i].textContent = `${i + 1} ${pad.label}`; });
  showCurrent();
  showGrid();
  keepSoon();
}

// The part of each pad in a kit, and with it its choke group. It follows from all pads, and the server knows.
async function nameParts() {
  const asked = state.pads;
  const found = await api.keys(asked.map(({ label, sound }) => ({ label, decay: sound.decay, brightness: sound.brightness })));
  asked.forEach((pad, i) => Object.assign(pad, found[i]));
}

let soon = null;
function keepSoon() {
  clearTimeout(soon);
  soon = setTimeout(async () => {
    await nameParts().catch((error) => complain(error.message));
    pads.show(state.pads), showGrid();
    const settings = Object.fromEntries(KEPT.map((id) => [id, $(id).value]));
    const { pads: now, pattern, current } = state;
    if (!keep(model, { pads: now, pattern, current, settings }))
      $("how").title = "these pads are too large to be kept when the page is loaded again: save the kit";
  }, 150);
}

function showCurrent() {
  const pad = state.pads[state.current];
  pads.current(state.current);
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
  const part = (name) => state.pads.findIndex((pad) => pad.part === name);
  // Where nothing is a hat, what rings shortest of all else is, and the open one what rings longest.
  const rest = state.pads.map((pad, i) => i).filter((i) => ![state.pads[kick].label, state.pads[snare].label]
    .includes(state.pads[i].label));
  const others = (rest.length > 1 ? rest : [8, 12])
    .sort((a, b) => state.pads[a].sound.decay - state.pads[b].sound.decay);
  const hat = part("closed hat") < 0 ? others[0] : part("closed hat");
  const open = part("open hat") < 0 ? others.at(-1) : part("open hat");
  state.pattern = patternOf(name, { kick, snare, hat, open });
  $("tempo").value = PATTERNS[name].tempo, $("swing").value = PATTERNS[name].swing;
  showNumbers(), showGrid(), keepSoon();
}

const SHOWN = {
  guidance: (v) => (+v === 1 ? "off" : (+v).toFixed(1)), strength: (v) => `${Math.round(v * 100)} %`,
  amount: (v) => `${Math.round(v * 100)} %`, swing: (v) => `${v} %`, volume: (v) => `${v} %`,
};

function showNumbers() {
  for (const [id, text] of Object.entries(SHOWN)) $(`${id}-shown`).textContent = text($(id).value);
  out.gain.value = (+$("volume").value / 100) ** 2 * 1.25;
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
  on("undo", () => step("undo"));
  on("redo", () => step("redo"));
  on("play", togglePlay);
  on("clear", () => { remember(), state.pattern.forEach((row) => row.fill(0)), showGrid(), keepSoon(); });
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
  dragged($("wave"), (from, to) => {
    const last = (1000 * facts.length) / facts.rate;
    $("begin").value = Math.round(from * last), $("end").value = Math.round(to * last);
    showWave();
  });
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && ["z", "y"].includes(event.key.toLowerCase())) {
      if (event.target.matches('input[type="text"], input[type="number"]')) return;
      return event.preventDefault(), step(event.shiftKey || event.key.toLowerCase() === "y" ? "redo" : "undo");
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.matches('select, input[type="text"], input[type="number"]')) return;
    const i = KEYS.indexOf(event.code);
    if (i >= 0) playPad(i), choose(i), event.preventDefault();
    if (event.code === "Space" && event.target === document.body) event.preventDefault(), togglePlay();
  });
  for (const id of KEPT) $(id).addEventListener("change", keepSoon);
  addEventListener("resize", showPads);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showPads);
}

for (const name of facts.samplers) $("sampler").append(new Option(name, name));
for (const name of Object.keys(PATTERNS)) $("pattern").append(new Option(name, name));
$("steps").disabled = facts.fixed_steps, $("steps").max = facts.most_steps, $("steps").value = facts.steps ?? 28;
$("guidance").value = facts.guidance, $("guidance").closest("label").hidden = facts.labels.length < 2;
$("seed").value = facts.seed;
$("begin").max = $("end").max = Math.floor((1000 * facts.length) / facts.rate);
$("model").textContent = `model ${facts.model}, ${facts.rate / 1000} kHz, ${(facts.length / facts.rate).toFixed(2)} s`;
for (let i = 0; i < 16; i++) $("other").append(new Option(`pad ${i + 1}`, i));
$("other").value = "4";
connect();
await nameParts();
const before = kept(model);
if (before) {
  const { settings, ...rest } = before;
  Object.assign(state, rest);
  for (const id of KEPT) if (settings[id] !== undefined) $(id).value = settings[id];
} else setPattern("Boom bap");
history.clear(), showHistory();
showNumbers(), showPads();
say("Ready");
document.documentElement.dataset.ready = "yes";
