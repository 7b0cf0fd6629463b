// Sounds as numbers: from and to the server, as WAV files, as buffers to play.

export function decode(told) {
  const { rate, decay, brightness, spectrogram: { rows, columns, shades } } = told;
  return { samples: new Float32Array(bytes(told.samples).buffer), rate, decay, brightness, rows, columns,
    shades: bytes(shades) };
}

// As the server tells it.
export function encodeSound({ samples, rate, decay, brightness, rows, columns, shades }) {
  return { samples: encode(samples), rate, decay, brightness, spectrogram: { rows, columns, shades: encode(shades) } };
}

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// The bytes of an array of numbers in base64.
export function encode(array) {
  const raw = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (let i = 0; i < raw.length; i += 8192) text += String.fromCharCode(...raw.subarray(i, i + 8192));
  return btoa(text);
}

const buffers = new WeakMap();

export function bufferOf(sound) {
  if (!buffers.has(sound)) {
    const buffer = new AudioBuffer({ length: sound.samples.length, sampleRate: sound.rate });
    buffer.copyToChannel(sound.samples, 0);
    buffers.set(sound, buffer);
  }
  return buffers.get(sound);
}

// A mono WAV file: 32-bit floats, bit for bit, or integers of 24 bits, cut at full scale.
export function wav(samples, rate, bits = 32) {
  const width = bits / 8, float = bits === 32, size = samples.length * width;
  const view = new DataView(new ArrayBuffer(44 + size + (size % 2)));
  const word = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  word(0, "RIFF"), view.setUint32(4, view.byteLength - 8, true), word(8, "WAVEfmt ");
  view.setUint32(16, 16, true), view.setUint16(20, float ? 3 : 1, true), view.setUint16(22, 1, true);
  view.setUint32(24, rate, true), view.setUint32(28, rate * width, true);
  view.setUint16(32, width, true), view.setUint16(34, bits, true), word(36, "data"), view.setUint32(40, size, true);
  samples.forEach((x, i) => {
    if (float) return view.setFloat32(44 + 4 * i, x, true);
    const n = Math.max(-(2 ** 23), Math.min(2 ** 23 - 1, Math.round(x * 2 ** 23)));
    view.setUint16(44 + 3 * i, n & 0xffff, true), view.setInt8(46 + 3 * i, n >> 16);
  });
  return new Blob([view], { type: "audio/wav" });
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob), link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
