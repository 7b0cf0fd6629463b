"""An offline run is read back from its file: a log of records in blocks of 32 KiB, LevelDB's format, after 7 bytes."""

import json
import re
import socket
import struct
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint

from diffwave_sde.callbacks import EMA, MetricHistory, SampleLogger, SpikeDetector, Wandb
from diffwave_sde.callbacks import wandb as room

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def logged_out(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def read(folder: Path) -> list:
    """The records of all runs in a folder, in their order, once they are written to the end."""
    records = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.parent.name):
        until = time.monotonic() + 20
        while not (found := parse(path.read_bytes())) or not any(r.HasField("exit") for r in found):
            assert time.monotonic() < until, f"{path} has no end"
            time.sleep(0.05)
        records += found
    return records


def parse(raw: bytes) -> list:
    from wandb.proto.wandb_internal_pb2 import Record

    records, at, parts = [], 7, b""
    while at + 7 <= len(raw):
        rest = 32768 - at % 32768
        if rest < 7:  # no header fits into what is left of a block
            at += rest
            continue
        _, size, kind = struct.unpack("<IHB", raw[at : at + 7])
        parts += raw[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


def history(records) -> list[dict]:
    """What was logged, a dict for each step; media are dicts in it."""
    rows = []
    for record in records:
        if record.HasField("history"):
            rows.append({})
            for item in record.history.item:
                *path, key = item.nested_key or [item.key]
                at = rows[-1]
                for part in path:
                    at = at.setdefault(part, {})
                at[key] = json.loads(item.value_json)
    return rows


def staged(records, folder: Path, table: str, ending: str) -> set[str]:
    """What `wandb sync` will send of a table: files in the run's own folder, by their paths in the table's artifact."""
    found = set()
    for record in records:
        if record.HasField("artifact") and f"-{table}-" in record.artifact.name:
            for entry in record.artifact.manifest.contents:
                if entry.path.endswith(ending):
                    path = Path(entry.local_path)
                    assert path.is_relative_to(folder)
                    assert path.stat().st_size > 1000
                    found.add(entry.path)
    return found


def fit(model, data, trainer, folder, steps=4, ckpt=None, detector=None):
    logger = Wandb()
    callbacks = [
        EMA(), detector or SpikeDetector(warmup=2, window=9), MetricHistory(), SampleLogger(every=2, count=2),
        LearningRateMonitor("step"),
        ModelCheckpoint(folder / "c", every_n_train_steps=1, save_last=True),
    ]  # fmt: skip
    run = trainer(
        callbacks, logger=logger, max_steps=steps, log_every_n_steps=1, val_check_interval=2, limit_val_batches=1,
        enable_checkpointing=True, default_root_dir=folder,
    )  # fmt: skip
    logger.attach(run)
    run.fit(model(), data(), ckpt_path=ckpt)
    logger.experiment.finish()
    return logger


def test_an_offline_run_holds_sounds_pictures_table_buckets_rate_and_norm(model, data, trainer, tmp_path, capsys):
    folder = tmp_path / "my-run"
    fit(model, data, trainer, folder)
    said = capsys.readouterr().out
    assert "W&B logs offline into" in said
    assert re.search(r"W&B: `wandb login`, once, and `wandb sync \S+/my-run/wandb/offline-run-\*` send this run", said)
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    records = read(folder)
    (run,) = {record.run.display_name for record in records if record.HasField("run")}
    assert run == "my-run"
    rows = history(records)
    for key in ("train/loss", "train/grad_norm", "train/spikes", "lr-AdamW", "val/loss", "train/clips_per_second"):
        assert any(key in row for row in rows), key
    for kind in ("train", "val"):
        assert any(key.startswith(f"{kind}/loss/sigma=1e") for row in rows for key in row), kind
    curves = [row for row in rows if "val/loss_by_noise_level_table" in row]
    table = (
        next((folder / "wandb").glob("offline-run-*")) / "files" / curves[0]["val/loss_by_noise_level_table"]["path"]
    )
    first = next(row for row in rows if "val/loss" in row)
    points = {int(key[len("val/loss/sigma=1e") :]): x for key, x in first.items() if key.startswith("val/loss/sigma=")}
    assert dict(json.loads(table.read_text())["data"]) == pytest.approx(points)
    heard = [row for row in rows if "samples/table" in row]
    assert [row["trainer/global_step"] for row in heard] == [2, 4]
    files = next((folder / "wandb").glob("offline-run-*")) / "files"
    for row, step in zip(heard, (2, 4), strict=True):
        assert row["samples/audio"]["count"] == row["samples/pictures"]["count"] == 2
        assert (files / row["samples/pictures"]["filenames"][0]).stat().st_size > 1000
        assert (files / row["samples/audio"]["audio"][0]["path"]).stat().st_size > 1000
        table = json.loads((files / row["samples/table"]["path"]).read_text())
        assert table["columns"] == ["step", "class", "sound", "audio", "picture"]
        assert [line[:3] for line in table["data"]] == [[step, "high", 0], [step, "low", 1]]
    assert len(staged(records, folder, "samplestable", ".wav")) == 4  # of two times, two classes
    assert len(staged(records, folder, "samplestable", ".png")) == 4


def test_a_run_that_goes_on_is_the_same_run_and_its_steps_only_rise(model, data, trainer, tmp_path):
    first = fit(model, data, trainer, tmp_path, 3)
    second = fit(model, data, trainer, tmp_path, 6, tmp_path / "c" / "last.ckpt")
    assert first.version == second.version
    rows = history(read(tmp_path))
    steps = [row["_step"] for row in rows]
    assert steps == sorted(steps)
    assert steps[-1] == 6
    assert all(row.get("trainer/global_step", row["_step"]) == row["_step"] for row in rows)
    assert sorted(row["_step"] for row in rows if "train/loss" in row) == [0, 1, 2, 3, 4, 5]


def test_a_spike_leaves_an_alert_its_figures_and_its_clips_in_the_run(model, data, trainer, tmp_path):
    class Once(SpikeDetector):
        def detect(self, values):
            self.values = [*getattr(self, "values", []), values]
            return {"loss": 9.0} if len(self.values) == 2 else {}

    detector = Once()
    fit(model, data, trainer, tmp_path, detector=detector)
    records = read(tmp_path)
    assert [r.alert.title for r in records if r.HasField("alert")] == ["Spike at step 1"]
    rows = history(records)
    (marked,) = [row for row in rows if "spikes/loss" in row]
    assert (marked["spikes/loss"], marked["spikes/grad_norm"]) == pytest.approx(detector.values[1])
    (shown,) = [row for row in rows if "spikes/table" in row]
    files = next((tmp_path / "wandb").glob("offline-run-*")) / "files"
    table = json.loads((files / shown["spikes/table"]["path"]).read_text())
    assert [line[:2] for line in table["data"]] == [[1, "loss 9.0 deviations up"]] * 3
    assert len(staged(records, tmp_path, "spikestable", ".wav")) == 3


@pytest.fixture
def fresh():
    """W&B keeps the settings that it found at its start."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.parametrize("login", ["api.wandb.ai", "variable"])
def test_logged_in_is_online_if_the_server_can_be_reached(monkeypatch, tmp_path, fresh, login):
    monkeypatch.setattr(room, "reachable", lambda server: True)
    mode, why = room.choose_mode()
    assert mode == "offline"
    assert "wandb login" in why
    if login == "variable":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    else:
        (tmp_path / "netrc").write_text(f"machine {login}\n  login user\n  password {'0' * 40}\n")
    assert room.choose_mode() == ("online", "")
    monkeypatch.setattr(room, "reachable", lambda server: False)
    mode, why = room.choose_mode()
    assert mode == "offline"
    assert "cannot be reached" in why


def test_a_key_for_another_server_is_none(monkeypatch, tmp_path, fresh):
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {'0' * 40}\n")
    assert room.choose_mode()[0] == "offline"


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_mode_that_the_user_sets_is_obeyed(monkeypatch, fresh, mode):
    monkeypatch.setattr(room, "reachable", lambda server: True)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", mode)
    assert room.choose_mode() == (mode, "")


def test_a_server_that_never_answers_leaves_the_run_offline(monkeypatch, tmp_path, fresh, capsys):
    monkeypatch.setattr(room, "TIMEOUT", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_MODE", "online")
        logger = Wandb(str(tmp_path))
        logger.log_metrics({"a": 1.0}, step=3)
        logger.experiment.finish()
    assert "W&B did not start online" in capsys.readouterr().err
    assert [row["a"] for row in history(read(tmp_path))] == [1.0]


def test_a_server_that_cannot_be_reached_is_found_out_in_seconds(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    began = time.monotonic()
    assert not room.reachable("http://127.0.0.1:9")
    assert not room.reachable("http://no-such-host.invalid")
    assert time.monotonic() - began < 8


def test_a_failure_of_wandb_does_not_stop_the_run(model, data, trainer, tmp_path, monkeypatch, capsys):
    real = wandb.init

    def init(**options):
        if options["mode"] != "disabled":
            raise wandb.errors.CommError("the server said no")
        return real(**options)

    monkeypatch.setattr(wandb, "init", init)
    module = model()
    trainer([SampleLogger(every=1, count=1), SpikeDetector()], logger=Wandb(str(tmp_path)), max_steps=2).fit(
        module, data()
    )
    assert torch.isfinite(next(module.parameters())).all()
    assert "W&B did not start offline (the server said no)" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"folder .*file.* cannot be written"):
        Wandb(str(tmp_path / "file" / "run")).experiment  # noqa: B018
