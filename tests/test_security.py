"""What somebody else wrote does no harm: models of every hostile kind end in one line, and no secret is kept."""

import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import typing
from pathlib import Path

import pytest
import torch
import yaml
from refusal import refusal

from diffwave_sde import checkpoint, trust
from diffwave_sde.cli import kinds
from diffwave_sde.cli.classes import subclasses
from diffwave_sde.data.kits import DRUMKIT, unpack
from diffwave_sde.model import KEY

DRUMS = checkpoint.MODELS / "drums"
WEIGHTS = (DRUMS / "model.safetensors").read_bytes()
RECIPE = yaml.safe_load((DRUMS / "config.yaml").read_text())


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def header(**change) -> bytes:
    """The weights of a model, of which the first tensor is said to be another."""
    size = struct.unpack("<Q", WEIGHTS[:8])[0]
    table = json.loads(WEIGHTS[8 : 8 + size])
    table[next(name for name in table if name != "__metadata__")] |= change
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + WEIGHTS[8 + size :]


HEADERS = {
    "longer than memory": struct.pack("<Q", 2**62) + WEIGHTS[8:],
    "-1": b"\xff" * 8 + WEIGHTS[8:],
    "nothing": b"",
    "no JSON": struct.pack("<Q", 4) + b"abcd",
    "cut": WEIGHTS[: len(WEIGHTS) // 2],
    "shape": header(shape=[2**40, 2**40]),
    "negative shape": header(shape=[-1, 5]),
    "offsets": header(data_offsets=[0, 2**60]),
    "type": header(dtype="X9"),
}


def folder(here: Path, recipe: str | None = None, weights: bytes = WEIGHTS) -> None:
    """A model's folder, `model`."""
    (here / "model").mkdir()
    (here / "model" / "model.safetensors").write_bytes(weights)
    (here / "model" / "config.yaml").write_text(recipe or yaml.safe_dump(RECIPE))


def test_weights_with_any_header_are_damaged_and_take_no_memory(here, capfd):
    for weights in HEADERS.values():
        folder(here, weights=weights)
        assert "model.safetensors is damaged" in refusal(["sample", "--ckpt=model", "--n=1"], capfd)
        shutil.rmtree(here / "model")


TOLD = {
    "labels": 5, "labels ": [1, None], "rate": "x", "rate ": 0, "rate  ": 10**12,
    "length": -1, "length ": 10**12,
    "mu": "x", "mu ": -1, "step": [1], "config": 5, "config ": {}, "config  ": {"model": 5},
    "config   ": {"model": {"net": 5}},
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_a_recipe_that_no_model_has_is_refused_in_one_line_that_names_the_file(name, here, capfd):
    folder(here, yaml.safe_dump({**RECIPE, name.strip(): TOLD[name]}))
    said = refusal(["sample", "--ckpt=model", "--n=1"], capfd)
    assert "model/config.yaml" in said or "model/model.safetensors" in said


def test_a_network_larger_than_memory_is_refused(here, capfd):
    recipe = json.loads(json.dumps(RECIPE))
    recipe["config"]["model"]["net"]["init_args"]["channels"] = [10**9] * 3
    folder(here, yaml.safe_dump(recipe))
    assert "describes no model that can be made" in refusal(["sample", "--ckpt=model", "--n=1"], capfd)


def test_a_recipe_that_stands_for_more_than_can_be_read_is_refused_at_once(here, capfd):
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    for more in (bomb, "x: !!python/object/apply:os.system ['touch ran']\n", "x: " + "[" * 3_000 + "]" * 3_000 + "\n"):
        folder(here, more + yaml.safe_dump(RECIPE))
        assert "config.yaml" in refusal(["sample", "--ckpt=model", "--n=1"], capfd)
        shutil.rmtree(here / "model")
    assert not (here / "ran").exists()


def test_links_pipes_and_devices_in_a_model_are_not_followed_for_ever(here, capfd):
    for target in ("config.yaml", "/dev/zero", "/etc/passwd"):
        folder(here)
        (here / "model" / "config.yaml").unlink()
        (here / "model" / "config.yaml").symlink_to(target)
        said = refusal(["sample", "--ckpt=model", "--n=1"], capfd)
        assert "config.yaml" in said
        assert "root:" not in said
        shutil.rmtree(here / "model")
    folder(here)
    (here / "model" / "config.yaml").unlink()
    os.mkfifo(here / "model" / "config.yaml")
    assert "not a file" in refusal(["sample", "--ckpt=model", "--n=1"], capfd)


class Touch:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


class System:
    def __reduce__(self):
        return os.system, ("touch ran",)


def bombs() -> dict:
    """Lists that stand for 9¹⁰ values, and one that holds itself."""
    many: list = [1] * 9
    for _ in range(9):
        many = [many] * 9
    loop: list = []
    loop.append(loop)
    return {"many": {KEY: {**RECIPE, "config": many}}, "loop": {KEY: {**RECIPE, "config": {"model": loop}}}}


HOSTILE = {
    "reduce": {KEY: Touch()},
    "system": {KEY: System()},
    "deep in it": {KEY: RECIPE, "state_dict": {}, "callbacks": {"x": [System()]}},
    "key": {KEY: RECIPE, System(): 1},
    "number": {KEY: 5},
    "list": [1],
    "weights that are none": {KEY: RECIPE, "state_dict": 5},
    "weights that are text": {KEY: RECIPE, "state_dict": {"x": "y"}},
    "kind": {KEY: {**RECIPE, "kind": 5}, "state_dict": {}},
    "step": {KEY: RECIPE, "state_dict": {}, "global_step": "x"},
    "of a tensor of 4 TB": {KEY: RECIPE, "state_dict": {"x": torch.zeros(1).expand(10**12)}, "global_step": 1},
    **bombs(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_runs_nothing_and_ends_in_one_line(name, here, capfd):
    torch.save(HOSTILE[name], here / "model.ckpt")
    refusal(["sample", "--ckpt=model.ckpt", "--n=1"], capfd)
    assert not (here / "ran").exists()


def test_bytes_that_are_no_checkpoint_run_nothing(here, capfd):
    torch.save({KEY: RECIPE, "state_dict": {}}, here / "whole")
    whole = (here / "whole").read_bytes()
    for data in (pickle.dumps(Touch()), pickle.dumps(System(), 0), b"PK\3\4" + bytes(range(256)) * 9, whole[:-99], b""):
        (here / "model.ckpt").write_bytes(data)
        assert "model.ckpt is not a checkpoint" in refusal(["sample", "--ckpt=model.ckpt", "--n=1"], capfd)
    assert not (here / "ran").exists()


def test_names_of_classes_do_not_lead_out_of_the_folder_of_sounds(here):
    from diffwave_sde.cli import main

    labels = ["../../../out", "/tmp/out", "a\x1b[31m", "..", *RECIPE["labels"][4:]]
    folder(here, yaml.safe_dump({**RECIPE, "labels": labels}))
    before = set(here.parent.iterdir())
    steps = ["--sampler=DDIM", "--sampler.steps=2", "--n=4", "--out=sounds"]
    main(["sample", "--ckpt=model", *steps])
    assert set(here.parent.iterdir()) == before
    assert {path.name for path in here.iterdir()} == {"model", "sounds"}
    assert all(path.parent == here / "sounds" for path in (here / "sounds").rglob("*.wav"))


MEMBERS = {
    "out": [("../out.wav", None)],
    "root": [("/tmp/diffwave-out.wav", None)],
    "link out": [("kit/link", "../.."), ("kit/link/out.wav", None)],
    "link to a file": [("kit/passwd", "/etc/passwd")],
}


@pytest.mark.parametrize("case", MEMBERS)
def test_an_archive_of_a_kit_writes_nothing_outside_of_its_folder(case, here):
    with tarfile.open(here / "x.h2drumkit", "w:gz") as tar:
        for name, link in MEMBERS[case]:
            entry = tarfile.TarInfo(name)
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
                tar.addfile(entry)
            else:
                entry.size = 3
                tar.addfile(entry, io.BytesIO(b"abc"))
        kit = tarfile.TarInfo(f"kit/{DRUMKIT}")
        tar.addfile(kit, io.BytesIO(b""))
    try:
        unpack(here / "x.h2drumkit", here / "home" / "kit")
    except ValueError as error:
        assert "x.h2drumkit" in str(error)  # noqa: PT017  it may also be unpacked, within its folder
    assert {path.name for path in here.iterdir()} <= {"x.h2drumkit", "home"}
    assert not Path("/tmp/diffwave-out.wav").exists()
    for path in (here / "home").rglob("*"):
        assert path.resolve().is_relative_to(here / "home")


@pytest.mark.parametrize(
    ("argv", "modules"),
    [
        (["fit", "--model.sde=mine.Circle"], {"mine"}),
        (["fit", "--model.sde", "mine.Circle"], {"mine"}),
        (["fit", "--model.sde.class_path=mine.Circle"], {"mine"}),
        (["fit", "--model.loss.weight=mine.sub.W"], {"mine"}),
        (["fit", "--trainer.callbacks+=mine.Loud"], {"mine"}),
        (["sample", "--sampler=mine.S", "--sampler.grid=yours.G"], {"mine", "yours"}),
        (["fit", "--name", "a.b"], set()),
        (["fit", "--name=a.b"], set()),
        (["fit", "--data.dataset=my.sounds"], set()),
        (["sample", "--ckpt=a.b", "--weak=c.d", "--classifier=e.f", "--out", "g.h"], set()),
        (["edit", "vary", "a.b"], set()),
        (["sample", "--label=a.b"], set()),
        (["fit", "--model.loss.teacher=a.b"], set()),
    ],
)
def test_only_an_option_that_takes_a_class_makes_its_module_trusted(argv, modules):
    assert trust.named_in(argv) == modules


def test_every_option_that_takes_a_class_of_this_program_is_known_to_the_trust():
    seen, todo, names = set(), list(kinds.KINDS.values()), set()
    while todo:
        cls = todo.pop()
        if cls in seen:
            continue
        seen.add(cls)
        for name, hint in typing.get_type_hints(cls.__init__).items():
            for part in (hint, *typing.get_args(hint)):
                if isinstance(part, type) and part.__module__.startswith("diffwave_sde") and name != "return":
                    names.add(name)
                    todo += subclasses(part)
    assert {"sde", "net", "time", "weight"} <= names
    assert names <= trust.CLASS_OPTIONS


SECRETS = {
    "WANDB_API_KEY": "5ecre7" + "0a" * 17,
    "HF_TOKEN": "hf_5ecre7token0123456789",
    "AWS_SECRET_ACCESS_KEY": "5ecre7/aws/0123456789",
    "GITHUB_TOKEN": "ghp_5ecre7github0123456789",
}


@pytest.mark.slow
def test_no_secret_of_the_environment_is_kept_in_anything_that_a_run_writes(here):
    command = [
        sys.executable, "-m", "diffwave_sde", "fit", "--data.dataset=drums", "--data.count=20", "--data.length=2000",
        "--data.batch_size=4", "--model.net.channels=[8,8,8]", "--model.net.embedding=8", "--model.net.heads=2",
        "--trainer.accelerator=cpu", "--trainer.max_steps=3", "--trainer.val_check_interval=3", "--data.root=data",
    ]  # fmt: skip
    env = os.environ | SECRETS | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2_000:]
    files = [path for path in here.rglob("*") if path.is_file()]
    assert any("wandb" in str(path) for path in files)
    assert any(path.suffix == ".ckpt" for path in files)
    for text in (done.stdout, done.stderr, *(path.read_bytes() for path in files)):
        assert not re.search(rb"5ecre7", text)
