"""Make sounds from the graphs and sampling.json beside this file, with numpy and onnxruntime alone.

python sample.py [--n 4] [--label kick] [--steps 28] [--seed 0] [--out sounds]
"""

import argparse
import functools
import json
import time
import wave
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent


def sample(graph, table, label, noise, plan, weak=None):
    """Sounds (B, T), companded if the training data was; of a model of latents, these, which its decoder takes.

    graph: (u (B, S, 1, T), t (B,), label (B,)) -> D (B, 1, T).
    weak: the same of a weaker network, where the table wants one.
    table: what sampling.json holds.
    label: class ids (B,), -1 for none.
    noise: (shape) -> standard normal numbers.
    plan: one of the table's plans.
    """
    shape = (len(label), len(table["prior"]), 1, table.get("state", table["length"]))
    u, before = mix(table["prior"], noise(shape)), None
    for i, t in enumerate(plan["times"]):
        D = denoised(graph, u, t, label, table["guidance"] if plan["guided"][i] else 1.0)
        if plan["auto"][i]:
            D = D + np.float32(table["auto"] - 1) * (D - weak(u, np.full(len(u), t), label))
        if i == len(plan["steps"]):
            return D[:, 0]
        step = plan["steps"][i]
        u = mix(step["A"], u) + along(step["a"], D)
        if np.any(step["c"]):
            u = u + mix(step["c"], noise(shape))
        if before is not None:
            u = u + along(step["b"], D - before)
        before = D
    return u[:, 0, 0]  # of a plan that stops at a noise level


def cascade(graphs, table, label, noise, steps):
    """Sounds (B, T) of stages of rising rate: each hears what the one before has made, at a level of noise.

    graphs: of the stages; those above the first take audio (B, 1, M) and level (B,) too.
    steps: the plan of each stage.
    """
    x, handover = None, table["handover"]
    for graph, stage in zip(graphs, table["stages"], strict=True):
        if x is not None:
            if not handover["truncated"]:  # a sampling that was stopped has that noise left
                x = x + np.float32(handover["level"]) * noise(x.shape)
            level = np.full(len(x), handover["level"], np.float32)
            graph = functools.partial(graph, audio=np.float32(x), level=level)
        x = sample(graph, stage, label, noise, stage["plans"][steps])[:, None]
    return x[:, 0, : table["length"]]


def denoised(graph, u, t, label, weight):
    """D (B, 1, T), guided towards the class by classifier-free guidance."""
    if weight == 1.0:
        return graph(u, np.full(len(u), t), label)
    both = graph(np.concatenate((u, u)), np.full(2 * len(u), t), np.concatenate((label, np.full_like(label, -1))))
    D, without = np.split(both, 2)
    return D + np.float32(weight - 1) * (D - without)


def mix(matrix, u):
    """A matrix (S, S) on the blocks of u (B, S, 1, T)."""
    return np.einsum("ij,bjct->bict", np.float32(matrix), u)


def along(vector, D):
    """A vector (S,) times D (B, 1, T) -> (B, S, 1, T)."""
    return np.float32(vector)[:, None, None] * D[:, None]


def load(folder=HERE, threads=0):
    """The graph of a model of one network as a function, the table, and the weak graph or None."""
    table = json.loads((Path(folder) / "sampling.json").read_text())
    weak = opened(Path(folder) / "weak.onnx", threads) if table["auto"] != 1 else None
    return opened(Path(folder) / "model.onnx", threads), table, weak


def opened(file, threads=0):
    """A graph as a function of its inputs, the first of them float32; in order, or by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # 0: as many as there are cores
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def graph(u, *inputs, **more):
        return session.run(None, dict(zip(names, (np.float32(u), *inputs), strict=False)) | more)[0]

    return graph


def player(folder=HERE, threads=0):
    """The table, and (label, noise, steps) -> sounds (B, T), of whatever kind of model it is."""
    folder = Path(folder)
    table = json.loads((folder / "sampling.json").read_text())
    if "stages" in table:
        graphs = [opened(folder / stage["graph"], threads) for stage in table["stages"]]
        return table, functools.partial(cascade, graphs, table)
    graph, table, weak = load(folder, threads)
    decoder = opened(folder / table["decoder"], threads) if "decoder" in table else None

    def play(label, noise, steps):
        y = sample(graph, table, label, noise, table["plans"][steps], weak)
        return y if decoder is None else decoder(y[:, None])[:, 0]

    return table, play


def expand(y, mu):
    """The waveform of a companded one; mu = 0 is none."""
    if not mu:
        return y
    return np.sign(y) * np.expm1(np.minimum(np.abs(y), 1) * np.log1p(mu)) / mu


def main():
    table, play = player()
    names, first = table["labels"], table.get("stages", [table])[0]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4, help="number of sounds (default 4)")
    parser.add_argument("--label", choices=names, help="class of all of them (default: each in turn)")
    parser.add_argument("--steps", choices=list(first["plans"]), default=str(first["default"]), help="network calls")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument("--out", type=Path, default=Path("sounds"), help="folder for the WAV files (default sounds)")
    options = parser.parse_args()
    asked = [options.label] if options.label else names
    label = np.array([names.index(asked[i % len(asked)]) if names else -1 for i in range(options.n)])
    rng = np.random.default_rng(options.seed)
    began = time.perf_counter()
    y = play(label, lambda shape: rng.standard_normal(shape, np.float32), options.steps)
    seconds = time.perf_counter() - began
    x = np.rint(np.clip(expand(y, table["mu"]), -1, 1) * 32767).astype("<i2")
    options.out.mkdir(parents=True, exist_ok=True)
    for i, sound in enumerate(x):
        # A class may be called what no file is.
        name = "".join(c if c.isalnum() or c in "._" else "-" for c in names[label[i]])[:60] if names else "sound"
        with wave.open(str(options.out / f"{i:03d}-{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(table["rate"])
            file.writeframes(sound.tobytes())
    print(f"{options.n} sounds in {options.out}: {x.size / table['rate']:.2f} s of sound in {seconds:.2f} s")


if __name__ == "__main__":
    main()
