// A tab's pads and beat over a reload: they stay in the browser, and end with the tab.

import { decode, encodeSound } from "./sound.js";

const NAME = "diffwave-sde";

// Whether it could be kept: a browser gives a tab some megabytes.
export function keep(model, state) {
  const pads = state.pads.map((pad) => ({ ...pad, sound: encodeSound(pad.sound) }));
  try {
    sessionStorage.setItem(NAME, JSON.stringify({ ...state, model, pads }));
    return true;
  } catch {
    sessionStorage.removeItem(NAME);
    return false;
  }
}

// What was kept of the same model, or null.
export function kept(model) {
  try {
    const state = JSON.parse(sessionStorage.getItem(NAME));
    if (JSON.stringify(state?.model) !== JSON.stringify(model)) return null;
    return { ...state, pads: state.pads.map((pad) => ({ ...pad, sound: decode(pad.sound) })) };
  } catch {
    return null;
  }
}
