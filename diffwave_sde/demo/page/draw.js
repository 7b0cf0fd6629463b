// Waveforms over spectrograms, in the colours of the style sheet.

const colour = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();

function rgb(text) {
  const n = parseInt(text.slice(1), 16);
  return [n >> 16, (n >> 8) & 255, n & 255];
}

// Draws a sound; `region`, [begin, end] as shares of it, is marked.
export function draw(canvas, sound, region = null) {
  const width = (canvas.width = Math.round(canvas.clientWidth * devicePixelRatio));
  const height = (canvas.height = Math.round(canvas.clientHeight * devicePixelRatio));
  const g = canvas.getContext("2d");
  if (!sound || !width) return;
  g.imageSmoothingEnabled = true;
  g.drawImage(picture(sound, rgb(colour(canvas, "--well")), rgb(colour(canvas, "--hue"))), 0, 0, width, height);
  if (region) {
    g.fillStyle = colour(canvas, "--mark");
    g.fillRect(region[0] * width, 0, (region[1] - region[0]) * width, height);
  }
  g.fillStyle = colour(canvas, "--text");
  const { samples } = sound, each = samples.length / width, middle = height / 2;
  for (let x = 0; x < width; x++) {
    let low = 0, high = 0;
    for (let i = Math.floor(x * each); i < (x + 1) * each; i++) {
      low = Math.min(low, samples[i]), high = Math.max(high, samples[i]);
    }
    const top = Math.max(0, middle * (1 - high)), bottom = Math.min(height, middle * (1 - low));
    g.fillRect(x, top, 1, Math.max(devicePixelRatio, bottom - top));
  }
}

// Tells of a region that is dragged on a canvas: `marked(begin, end)`, as shares of its width.
export function dragged(canvas, marked) {
  let from = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  canvas.addEventListener("pointerdown", (event) => { from = at(event), canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (from !== null) marked(Math.min(from, at(event)), Math.max(from, at(event)));
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => { from = null; });
}

function picture({ rows, columns, shades }, ground, hue) {
  const canvas = new OffscreenCanvas(columns, rows), g = canvas.getContext("2d"), image = g.createImageData(columns, rows);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      // Low frequencies lie below; the loudest stays apart from the waveform's colour.
      const shade = 0.75 * (shades[(rows - 1 - row) * columns + column] / 255) ** 1.5, at = 4 * (row * columns + column);
      for (let c = 0; c < 3; c++) image.data[at + c] = ground[c] + (hue[c] - ground[c]) * shade;
      image.data[at + 3] = 255;
    }
  g.putImageData(image, 0, 0);
  return canvas;
}
