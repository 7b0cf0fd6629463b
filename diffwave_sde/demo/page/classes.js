// What new sounds are to be: the pad's own class, another, or a mix with a slider for each.

export class Classes {
  constructor(root, mix, labels) {
    this.labels = labels;
    this.sliders = [];
    if (!labels.length) { root.hidden = true; return; }
    for (const name of ["its own", ...labels, "a mix"]) {
      const label = document.createElement("label"), radio = document.createElement("input");
      Object.assign(radio, { type: "radio", name: "class", value: name, checked: name === "its own" });
      label.append(radio, name === "its own" ? "the pad's own" : name);
      root.append(label);
    }
    this.sliders = labels.map((name, k) => {
      const label = document.createElement("label"), slider = document.createElement("input");
      label.className = "slider";
      Object.assign(slider, { type: "range", min: 0, max: 100, step: 5, value: k < 2 ? 50 : 0, id: `share-${k}` });
      const shown = Object.assign(document.createElement("output"), { textContent: `${slider.value} %` });
      slider.addEventListener("input", () => { shown.textContent = `${slider.value} %`; });
      label.append(name, slider, shown);  // the slider first: a label names the first of them
      mix.append(label);
      return slider;
    });
    root.addEventListener("change", (event) => { mix.hidden = event.target.value !== "a mix"; });
  }

  // The class to ask for, for a pad whose own it is.
  label(own) {
    const chosen = document.querySelector('input[name="class"]:checked')?.value;
    if (chosen === undefined || chosen === "its own") return own;
    if (chosen !== "a mix") return chosen;
    const shares = this.labels.map((label, k) => [label, +this.sliders[k].value]).filter(([, share]) => share > 0);
    if (!shares.length) throw new Error("the mix has no class in it: move a slider up");
    if (shares.length === 1) return shares[0][0];
    const total = shares.reduce((sum, [, share]) => sum + share, 0);
    return shares.map(([label, share]) => `${label}:${+(share / total).toFixed(3)}`).join("+");
  }
}
