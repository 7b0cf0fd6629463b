// The sixteen pads as they are seen: a picture, a name, a key, a box to select them by.

import { draw } from "./draw.js";

export const KEYS = ["Digit1", "Digit2", "Digit3", "Digit4", "KeyQ", "KeyW", "KeyE", "KeyR", "KeyA", "KeyS", "KeyD",
  "KeyF", "KeyZ", "KeyX", "KeyC", "KeyV"];  // by place, so that they lie the same on any keyboard

// `struck(i)`, `selected(i, yes)` and `dropped(i, file)` are told of what is done to pad i.
export function build(root, { struck, selected, dropped }) {
  const pads = KEYS.map((key, i) => {
    const pad = document.createElement("div");
    pad.className = "pad";
    pad.innerHTML = `<button type="button" class="hit"><canvas></canvas><span class="name"></span>
      <kbd>${key.at(-1)}</kbd><span class="seed"></span></button>
      <label class="check"><input type="checkbox"><span class="hidden">Select pad ${i + 1}</span></label>`;
    const button = pad.querySelector(".hit"), box = pad.querySelector("input");
    button.addEventListener("pointerdown", (event) => { if (!event.button) struck(i); });
    button.addEventListener("click", (event) => { if (!event.detail) struck(i); });  // by a key
    box.addEventListener("change", () => selected(i, box.checked));
    pad.addEventListener("dragover", (event) => { event.preventDefault(), pad.classList.add("over"); });
    pad.addEventListener("dragleave", () => pad.classList.remove("over"));
    pad.addEventListener("drop", (event) => {
      event.preventDefault(), pad.classList.remove("over");
      const [file] = event.dataTransfer.files;
      if (file) dropped(i, file);
    });
    root.append(pad);
    return pad;
  });
  return {
    show(sounds) {
      sounds.forEach((pad, i) => {
        const element = pads[i], from = pad.seed === null ? pad.how : `seed ${pad.seed}`;
        element.style.setProperty("--hue", `var(--hue-${pad.hue})`);
        element.querySelector(".name").textContent = pad.label;
        element.querySelector(".seed").textContent = pad.part ? `${pad.part}, ${from}` : from;
        element.querySelector(".hit").setAttribute("aria-label",
          [`Pad ${i + 1}`, pad.label, pad.part, pad.how].filter(Boolean).join(", "));
        draw(element.querySelector("canvas"), pad.sound);
      });
    },
    current(i) { pads.forEach((pad, k) => pad.classList.toggle("current", k === i)); },
    waiting(some, yes) { for (const i of some) pads[i].classList.toggle("waiting", yes); },
    flash(i) { pads[i].classList.remove("struck"), void pads[i].offsetWidth, pads[i].classList.add("struck"); },
  };
}
