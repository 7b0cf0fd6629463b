// Sixteen steps, over and over. Each hit's time follows from its number alone, so nothing adds up over the minutes; a
// hit begins on a sample of the audio clock, and is handed to it ahead of time.

import { Voices } from "./voices.js";

export const STEPS = 16;
const AHEAD = 0.2;  // s: what is handed over; a timer that comes late by less is not heard

// Seconds of step number `step` after the first: sixteenths, of which every second comes later with swing (50 to 75 %).
export function timeOf(step, tempo, swing) {
  const sixteenth = 15 / tempo;
  return sixteenth * (step % 2 ? step - 1 + swing / 50 : step);
}

export class Sequencer {
  // `state()` gives {pattern, sounds, groups, tempo, swing}: pattern[pad][step] is a velocity, 0 for none; groups[pad] is
  // a choke group, or null.
  constructor(context, voices, state, shown = () => {}) {
    Object.assign(this, { context, voices, state, shown, timer: null, queue: [] });
  }

  get playing() { return this.timer !== null; }

  begin(clock) {
    this.first = this.context.currentTime + 0.06, this.step = 0;
    ({ tempo: this.tempo, swing: this.swing } = this.state());
    this.timer = clock;
    clock.onmessage = () => this.advance();
    this.advance();
  }

  end() {
    this.timer?.terminate();
    this.timer = null;
    for (const one of this.queue) if (one.time > this.context.currentTime) one.source.stop();
    this.queue = [];
    this.shown(-1);
  }

  advance() {
    const { pattern, sounds, groups, tempo, swing } = this.state();
    if (tempo !== this.tempo || swing !== this.swing) {
      // From the next step on, which keeps its time: an even one, so that swing stays where it belongs.
      const even = this.step + (this.step % 2);
      this.first += timeOf(even, this.tempo, this.swing) - timeOf(even, tempo, swing);
      Object.assign(this, { tempo, swing });
    }
    const now = this.context.currentTime;
    for (;;) {
      const time = this.first + timeOf(this.step, this.tempo, this.swing);
      if (time > now + AHEAD) break;
      const column = this.step % STEPS;
      // After a sleep of the machine the past is left out.
      if (time >= now - 0.01) {
        pattern.forEach((row, pad) => {
          if (row[column] && sounds[pad])
            this.queue.push({ time, source: this.voices.hit(sounds[pad], row[column], time, groups[pad]) });
        });
        setTimeout(() => this.playing && this.shown(column), Math.max(0, (time - now) * 1000));
      }
      this.step++;
    }
    this.queue = this.queue.filter((one) => one.time > now - 1);
  }
}

// So many bars, with their end ringing out: {samples, rate}.
export async function render({ pattern, sounds, groups, tempo, swing }, bars, rate) {
  const longest = Math.max(...sounds.filter(Boolean).map((sound) => sound.samples.length / sound.rate), 0);
  const length = Math.ceil((timeOf(bars * STEPS, tempo, swing) + longest) * rate);
  const context = new OfflineAudioContext(1, length, rate), voices = new Voices(context, context.destination);
  for (let step = 0; step < bars * STEPS; step++)
    pattern.forEach((row, pad) => {
      const velocity = row[step % STEPS];
      if (velocity && sounds[pad]) voices.hit(sounds[pad], velocity, timeOf(step, tempo, swing), groups[pad]);
    });
  const made = await context.startRendering();
  return { samples: made.getChannelData(0), rate };
}

// Patterns by what a drum is for: velocity by step, x hard, o softer, . a ghost.
export const PATTERNS = {
  "Boom bap": { kick: "X--o--X---X-----", snare: "----X--.-.--X---", hat: "x-o-x-o-x-o-x-o-", tempo: 92, swing: 58 },
  "Four on the floor": { kick: "X---X---X---X---", snare: "----X-------X---", hat: "--x---x---x---x-",
    open: "--------------x-", tempo: 124, swing: 50 },
  "Breakbeat": { kick: "X-X-------Xo----", snare: "----X--o-o--X--o", hat: "x-x-x-x-x-x-x-x-", tempo: 138, swing: 54 },
  "Half time": { kick: "X-----o---X-----", snare: "--------X-------", hat: "x.o.x.o.x.o.xoxo", open: "--------------x-",
    tempo: 140, swing: 50 },
  "Electro": { kick: "X-----X---X--X--", snare: "----X-------X---", hat: "xxoxxxoxxxoxxxox", tempo: 112, swing: 50 },
};
const VELOCITIES = { X: 120, x: 100, o: 75, ".": 40 };

export function patternOf(name, roles) {
  const pattern = Array.from({ length: 16 }, () => Array(STEPS).fill(0));
  for (const [role, pad] of Object.entries(roles))
    [...(PATTERNS[name][role] ?? "")].forEach((mark, step) => {
      pattern[pad][step] = VELOCITIES[mark] ?? 0;
    });
  return pattern;
}
