// Sounds on their way to a context's output. The hats of a kit share a choke group: each hit of one cuts off the others,
// as in the presets that are taken away.

import { bufferOf } from "./sound.js";

const FADE = 0.005;  // s in which a sound is cut off, without a click

export const gainOf = (velocity) => (velocity / 127) ** 2;

export class Voices {
  constructor(context, out) {
    Object.assign(this, { context, out, groups: new Map() });
  }

  // A hit at `time`, s, on the sample that is nearest; `group` is its choke group, or null. Its source comes back.
  hit(sound, velocity, time, group = null) {
    const { context } = this, value = gainOf(velocity);
    const source = new AudioBufferSourceNode(context, { buffer: bufferOf(sound) });
    const gain = new GainNode(context, { gain: value });
    source.connect(gain).connect(this.out);
    const begin = Math.max(0, Math.round(time * context.sampleRate) / context.sampleRate);
    source.start(begin);
    if (group !== null) this.choke({ source, gain: gain.gain, value, begin, end: Infinity }, group);
    return source;
  }

  choke(voice, group) {
    const alive = (this.groups.get(group) ?? []).filter((one) => one.begin + one.source.buffer.duration >
      this.context.currentTime);
    for (const one of alive)
      if (one.begin <= voice.begin) cut(one, voice.begin);
      else cut(voice, one.begin);  // it was handed over before, for later
    this.groups.set(group, [...alive, voice]);
  }
}

function cut(voice, time) {
  if (voice.end <= time) return;
  voice.end = time;
  voice.gain.cancelScheduledValues(0);
  voice.gain.setValueAtTime(voice.value, time);
  voice.gain.linearRampToValueAtTime(0, time + FADE);
  voice.source.stop(time + FADE);
}
