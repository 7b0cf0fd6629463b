// The sequencer's steps: buttons whose height of colour is the velocity.

import { STEPS } from "./sequencer.js";

const USUAL = 100;

// `changed(pad, step, velocity, first)` is told of each change; `first` begins one that can be undone.
export function build(root, changed) {
  const cells = [], heads = [];
  for (let pad = 0; pad < 16; pad++) {
    const head = document.createElement("span");
    head.className = "head", heads.push(head), root.append(head);
    cells.push(Array.from({ length: STEPS }, (_, step) => {
      const cell = document.createElement("button");
      cell.type = "button", cell.className = "step", cell.tabIndex = pad || step ? -1 : 0;
      Object.assign(cell.dataset, { pad, step });
      root.append(cell);
      return cell;
    }));
  }
  const at = (event) => {
    const cell = event.target.closest?.(".step");
    return cell && { cell, pad: +cell.dataset.pad, step: +cell.dataset.step };
  };
  const velocity = (cell) => +cell.dataset.velocity;
  let drag = null;
  root.addEventListener("pointerdown", (event) => {
    const found = at(event);
    if (!found || event.button) return;
    drag = { ...found, from: event.clientY, before: velocity(found.cell), moved: false };
    found.cell.setPointerCapture(event.pointerId);
  });
  root.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const up = drag.from - event.clientY;
    if (!drag.moved && Math.abs(up) < 4) return;
    const value = Math.min(127, Math.max(1, Math.round((drag.before || USUAL) + up)));
    changed(drag.pad, drag.step, value, !drag.moved);
    drag.moved = true;
  });
  root.addEventListener("pointerup", () => {
    // The click that follows a drag is no click.
    const ended = drag;
    drag = null;
    if (ended?.moved) root.addEventListener("click", (event) => event.stopPropagation(), { capture: true, once: true });
  });
  root.addEventListener("pointercancel", () => { drag = null; });
  root.addEventListener("click", (event) => {
    const found = at(event);
    if (found) changed(found.pad, found.step, velocity(found.cell) ? 0 : USUAL, true);
  });
  root.addEventListener("focusin", (event) => {
    if (!at(event)) return;
    root.querySelector('.step[tabindex="0"]').tabIndex = -1;
    event.target.tabIndex = 0;
  });
  root.addEventListener("keydown", (event) => {
    const found = at(event);
    if (!found || event.ctrlKey || event.metaKey) return;
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const louder = { "+": 10, "=": 10, "-": -10 }[event.key];
    if (by) cells[(found.pad + by[0] + 16) % 16][(found.step + by[1] + STEPS) % STEPS].focus();
    else if (louder)
      changed(found.pad, found.step, Math.min(127, Math.max(1, (velocity(found.cell) || USUAL) + louder)), true);
    else return;
    event.preventDefault();
  });
  return {
    show(pattern, pads) {
      pads.forEach((pad, i) => {
        heads[i].textContent = `${i + 1} ${pad.part || pad.label}`;
        heads[i].style.setProperty("--hue", `var(--hue-${pad.hue})`);
        cells[i].forEach((cell, step) => {
          const value = pattern[i][step];
          cell.dataset.velocity = value;
          cell.style.setProperty("--level", `${value ? 20 + (80 * value) / 127 : 0}%`);
          cell.style.setProperty("--hue", `var(--hue-${pad.hue})`);
          cell.setAttribute("aria-pressed", value > 0);
          const told = value ? `velocity ${value}` : "off";
          cell.setAttribute("aria-label", `pad ${i + 1}, ${pad.label}, step ${step + 1}, ${told}`);
        });
      });
    },
    mark(column) {
      for (const cell of root.querySelectorAll(".step.now")) cell.classList.remove("now");
      if (column >= 0) cells.forEach((row) => row[column].classList.add("now"));
    },
  };
}
