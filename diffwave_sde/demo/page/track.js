// A track that new sounds are to go with: opened, heard alone and with each pad that is played. Of a model that hears one.

import * as api from "./api.js";
import { decode, encode } from "./sound.js";

const $ = (id) => document.getElementById(id);

export class Track {
  // `play(sound)` plays a sound and gives its source; `complain(text)` tells what is wrong, or null.
  constructor(hears, seconds, play, complain) {
    Object.assign(this, { seconds, play, complain, file: null, sound: null, source: null });
    $("track-room").hidden = !hears;
    $("track-open").addEventListener("click", () => $("track-file").click());
    $("track-file").addEventListener("change", () => {
      if ($("track-file").files[0]) this.open($("track-file").files[0]);
      $("track-file").value = "";
    });
    $("track-begin").addEventListener("change", () => { if (this.file) this.open(this.file); });
    $("track-hear").addEventListener("click", () => this.hit());
    $("track-none").addEventListener("click", () => { this.file = this.sound = null, this.show(); });
  }

  async open(file) {
    try {
      this.complain(null);
      const begin = Math.max(0, +$("track-begin").value || 0);
      const sound = decode(await api.track(file, begin));
      Object.assign(this, { file, sound, begin });
      this.show();
    } catch (error) {
      this.complain(error.message);
    }
  }

  // What a call is told of it.
  get settings() { return this.sound ? { track: encode(this.sound.samples) } : {}; }

  // What is told of sounds that were made now.
  get how() { return this.sound ? `, for ${this.file.name} from ${this.begin} s` : ""; }

  // One window of it, in place of what still sounds of it.
  hit() {
    this.source?.stop();
    this.source = this.play(this.sound);
  }

  withPad() { if (this.sound && $("track-with").checked) this.hit(); }

  show() {
    for (const id of ["track-hear", "track-none"]) $(id).disabled = !this.sound;
    $("track-name").textContent = this.sound
      ? `new sounds go with ${this.file.name}, ${this.seconds.toFixed(2)} s from ${this.begin} s on`
      : "no track: new sounds go with nothing";
  }
}
