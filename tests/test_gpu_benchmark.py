"""The run that is prepared for a GPU, small and on a CPU: every stage ends, and says what it found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffwave_sde import checkpoint

ROOT = Path(__file__).parents[1]
STAGES = ["same", "network", "sampling", "ddp", "model"]


def quick(out: Path, *options: str) -> tuple[int, dict]:
    """The exit status, and gpu.json. Minutes are what it may take, not what it takes."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), f"--out={out}", "--device=cpu", "--quick"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--minutes=20", *options], env=env, capture_output=True, text=True, check=False)
    assert (out / "gpu.json").is_file(), done.stderr[-3000:]
    return done.returncode, json.loads((out / "gpu.json").read_text())


def rows(stage: dict, title: str) -> list[dict[str, str]]:
    table = next(table for table in stage["tables"] if title in table["title"])
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_a_stage_that_fails_is_told_and_the_others_go_on(tmp_path):
    status, found = quick(tmp_path, "--ckpt=no-such-model")
    assert (status, found["device"], found["quick"]) == (1, "cpu", True)
    assert list(found["machine"]) == ["device", "software", "python"]
    assert [stage["name"] for stage in found["stages"]] == STAGES
    same, network, sampling, ddp, model = found["stages"]
    assert sampling["status"] == "failed"
    assert all("no-such-model" in failure["error"] for failure in sampling["failures"])
    for stage in (same, network, ddp, model):
        assert (stage["status"], stage["failures"]) == ("done", [])
    assert {"tiny", "base", "crash", "ncsnpp", "tiny, CLD"} == {row["network"] for row in rows(same, "Against")}
    assert len(rows(same, "Every sampler")) > 14
    assert len(rows(same, "Every grid")) > 8
    assert {"base", "tiny", "crash"} == {row["network"] for row in rows(network, "Speed")}
    assert len(rows(network, "Training step of base")) == 10
    assert float(rows(ddp, "Weights")[0]["apart, of how far they moved"]) < 1e-4
    assert rows(model, "sounds against the data")[0]["embedding"] == "log-mel"
    assert checkpoint.load(tmp_path / "model").step == 4
    text = (tmp_path / "gpu.md").read_text()
    assert "This is a run on a CPU" in text
    assert "- **failed**, eager, float32, 1 at a time: FileNotFoundError: no checkpoint at no-such-model" in text


@pytest.mark.timeout(600)
def test_sampling_is_measured_over_the_bare_network(tmp_path):
    status, found = quick(tmp_path, "--only=sampling")
    (stage,) = found["stages"]
    assert (status, stage["status"], stage["failures"]) == (0, "done", [])
    # On a CPU that is fast in bfloat16 there is a line more.
    assert {row["loop"] for row in rows(stage, "drums")} - {"on the device"} == {"eager", "captured"}
    assert float(rows(stage, "Captured sounds")[0]["relative error"]) < 1e-4
