"""Weights that were saved under the names of an earlier version are those of the model, bit by bit."""

import pytest
import torch
from safetensors.torch import load_file

from diffwave_sde import checkpoint
from diffwave_sde.callbacks import EMA
from diffwave_sde.compatibility import renew_weights
from diffwave_sde.module import DiffusionModule
from diffwave_sde.networks import MDCT, UNet

OLD = {
    "mid_in": "inward", "mid_out": "outward", "downsample": "shrink", "upsample": "grow",
    "pyramid_in": "enter", "level_in": "see", "level_head": "say",
}  # fmt: skip
LAYOUTS = [
    {"multiresolution": True, "front": MDCT(20)},
    {"progressive": True, "transition": "biggan", "resample": "fir"},
    {"bottleneck": "both", "resample": "fir", "norm": "frame"},
]


def small(**options):
    return UNet(1, 2, channels=(8, 12), factors=(2,), embedding=16, heads=2, **options)


def as_of_old(state):
    """The weights under the names that they once had."""
    return {".".join(OLD.get(part, part) for part in name.split(".")): value for name, value in state.items()}


@pytest.mark.parametrize("options", LAYOUTS, ids=lambda options: "-".join(options))
@pytest.mark.parametrize("prefix", ["net.", "weak.net.", "denoiser.net.", "denoiser.weak.net."])
def test_the_weights_of_every_layout_get_their_names(options, prefix):
    now = {prefix + name: value for name, value in small(**options).state_dict().items()}
    old = as_of_old(now)
    assert old.keys() != now.keys()
    assert renew_weights(old) == now
    assert renew_weights(now) == now


def test_parts_of_a_network_of_ones_own_keep_their_names():
    mine = {
        "net.see.weight": 1,
        "net.say.0.lin.weight": 2,
        "denoiser.net.enter.gru.0.weight": 3,
        "other.shrink.0.bias": 4,
    }
    assert renew_weights(mine) == mine


@pytest.mark.parametrize("name", checkpoint.shipped())
def test_the_models_that_come_along_hold_what_their_files_hold(name):
    path = checkpoint.find(name)
    held = as_of_old(checkpoint.load(name).module.denoiser.state_dict())
    file = as_of_old(load_file(path))
    assert held.keys() == file.keys()
    assert all(torch.equal(held[key], value.float()) for key, value in file.items())


def test_a_checkpoint_of_old_goes_on_and_is_heard_raw_and_averaged(model, data, trainer, tmp_path):
    saved = trainer([EMA()], max_steps=2)
    saved.fit(model(), data())
    now, then = tmp_path / "now.ckpt", tmp_path / "then.ckpt"
    saved.save_checkpoint(now)
    state = torch.load(now, weights_only=True)
    old = {part: as_of_old(state[part]) for part in ("state_dict", "current_model_state")}
    torch.save({**state, **old}, then)
    assert any(".inward." in name for name in old["current_model_state"])

    read = checkpoint.read(then)
    for part in old:
        assert read[part].keys() == state[part].keys()
        assert all(torch.equal(read[part][key], value) for key, value in state[part].items())

    ends = []
    for path in (now, then):
        run = trainer([EMA()], max_steps=4)
        run.fit(model(), data(), ckpt_path=path)
        run.save_checkpoint(tmp_path / "end.ckpt")
        ends.append(torch.load(tmp_path / "end.ckpt", weights_only=True))
    for part in old:
        assert all(torch.equal(ends[0][part][key], ends[1][part][key]) for key in state[part])


def test_an_exported_model_of_old_is_read_with_its_options_under_todays_names(tmp_path):
    path = checkpoint.find("drums")
    config = path.with_name("config.yaml").read_text()
    assert "time_sampling: stratified" in config
    (tmp_path / "config.yaml").write_text(config.replace("time_sampling: stratified", "strata: independent"))
    (tmp_path / path.name).symlink_to(path)
    assert checkpoint.load(tmp_path, kind=DiffusionModule).module.loss.time_sampling == "independent"
