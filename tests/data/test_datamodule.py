import itertools
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from few import LENGTH, data
from lightning.pytorch import LightningModule, Trainer, callbacks

from diffwave_sde import audio
from diffwave_sde.data.clips import Clips
from diffwave_sde.data.loader import EpochSampler
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.data.split import split

# ------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("mu", [0.0, 255.0])
def test_a_batch_is_the_companded_rows_it_names(root, mu):
    it = data(root, mu=mu)
    batch = next(iter(it.train_dataloader()))
    assert batch.audio.shape == (4, 1, LENGTH)
    assert batch.audio.dtype == torch.float32
    assert batch.label.dtype == batch.index.dtype == torch.int64
    x = torch.from_numpy(it.store.clips[batch.index.numpy()] / 32768)
    assert (batch.audio[:, 0] - audio.compress(x, mu)).abs().max() < 1e-7
    assert (audio.expand(batch.audio[:, 0].double(), mu) - x).abs().max() < 1e-6
    assert batch.label.tolist() == it.store.label_ids[batch.index.numpy()].tolist()


def test_silence_is_exactly_0_in_a_batch(root):
    it = data(root)
    assert Clips(it.store, np.arange(1), 255.0).table[0] == 0


def test_sigma_data_is_the_rms_of_the_companded_training_clips(root):
    it = data(root)
    x = torch.from_numpy(it.store.clips[it.splits["train"]] / 32768)
    assert it.sigma_data == pytest.approx(float(audio.compress(x).square().mean().sqrt()), rel=1e-5)
    assert data(root, mu=0).sigma_data < 0.8 * it.sigma_data


def test_the_diameter_is_the_largest_distance_between_two_training_clips(root):
    it = data(root)
    x = audio.compress(torch.from_numpy(it.store.clips[it.splits["train"]] / 32768))
    farthest = max(float((a - b).norm()) for a, b in itertools.combinations(x, 2))
    assert it.diameter == pytest.approx(farthest, rel=1e-5)


def test_every_loader_gives_all_its_clips_and_only_those(root):
    it = data(root)
    for name, loader in (("validation", it.val_dataloader()), ("test", it.test_dataloader())):
        assert sorted(torch.cat([batch.index for batch in loader]).tolist()) == sorted(it.splits[name].tolist())
    seen = torch.cat([batch.index for batch in it.train_dataloader()]).tolist()
    assert len(seen) == len(set(seen)) == len(it.splits["train"]) // 4 * 4
    assert set(seen) <= set(it.splits["train"].tolist())


def test_fewer_clips_than_a_batch_still_train(root):
    it = data(root, batch_size=100)
    (batch,) = it.train_dataloader()
    assert set(batch.index.tolist()) == set(it.splits["train"].tolist())
    assert len(batch.index) == 100


@pytest.mark.parametrize(("options", "name"), [
    ({"length": -21_000}, "length"), ({"mu": -1.0}, "mu"), ({"mu": float("nan")}, "mu"),
    ({"batch_size": 0}, "batch_size"), ({"workers": -1}, "workers"), ({"count": 0}, "count"),
    ({"validation": -0.1}, "validation"), ({"validation": 0.5, "test": 0.5}, "validation"),
    ({"test": float("nan")}, "test"),
])  # fmt: skip
def test_an_argument_out_of_range_is_one_line_that_names_it(options, name):
    with pytest.raises(ValueError, match=rf"data\.{name}") as caught:
        AudioDataModule(**options)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------- splits


def names(n: int) -> np.ndarray:
    return np.array([f"{k:032x}".encode() for k in range(n)])


def test_the_split_has_its_shares_and_no_clip_twice():
    train, validation, test = split(names(20_000), 0.1, 0.2)
    assert sorted(np.concatenate([train, validation, test]).tolist()) == list(range(20_000))
    assert len(validation) / 20_000 == pytest.approx(0.1, abs=0.01)
    assert len(test) / 20_000 == pytest.approx(0.2, abs=0.01)


def test_adding_files_moves_no_other_between_splits():
    few, order = names(2_000), np.random.default_rng(0).permutation(5_000)
    before = [set(few[rows]) for rows in split(few, 0.1, 0.1)]
    many = names(5_000)[order]
    after = [set(many[rows]) for rows in split(many, 0.1, 0.1)]
    assert all(one <= other for one, other in zip(before, after, strict=True))


def test_a_kit_is_never_split():
    kits = np.array([f"kit {k % 40}" for k in range(4_000)])
    parts = [set(kits[rows]) for rows in split(kits, 0.2, 0.2)]
    assert all(parts)
    assert not any(one & other for one, other in itertools.combinations(parts, 2))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_clips_leave_some_for_training_first_then_validation(n):
    train, validation, test = split(names(n), 0.1, 0.1)
    assert len(train) >= 1
    assert (len(validation) >= 1) == (n >= 2)
    assert (len(test) >= 1) == (n >= 3)


def test_a_share_of_0_measures_on_the_training_clips_and_says_so(root):
    it = data(root, validation=0.0)
    with pytest.warns(UserWarning, match="validation"):
        assert np.array_equal(it.splits["validation"], it.splits["train"])


# ----------------------------------------------------------------------------------------------- sampling


def test_an_order_depends_on_seed_and_epoch_alone():
    one, two = EpochSampler(range(100), 5, seed=3), EpochSampler(range(100), 5, seed=3)
    for _ in range(3):
        list(one)
    one.epoch = two.epoch = 4
    assert list(one) == list(two)
    assert sorted(one) == list(range(100))
    orders = {tuple(EpochSampler(range(100), 5, seed=seed)) for seed in range(3)}
    two.next_epoch()
    assert len(orders | {tuple(one), tuple(two)}) == 5


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_together_hold_at_each_step_the_clips_of_one_process(world):
    batch = 4
    one = list(EpochSampler(range(100), world * batch))
    ranks = [list(EpochSampler(range(100), batch, 0, world, rank)) for rank in range(world)]
    assert len(one) == sum(map(len, ranks))
    for k in range(len(ranks[0]) // batch):
        together = set().union(*(rank[k * batch : (k + 1) * batch] for rank in ranks))
        assert together == set(one[k * world * batch : (k + 1) * world * batch])


def test_a_position_is_kept_in_clips_when_the_number_of_ranks_changes():
    one = EpochSampler(range(96), 8)
    one.epoch, one.position = 2, 3
    two = EpochSampler(range(96), 4, 0, 2, 0)
    two.load_state_dict(one.state_dict())
    assert (two.epoch, two.position) == (2, 3)
    half = EpochSampler(range(96), 4)
    half.load_state_dict(one.state_dict())
    assert half.position == 6
    assert list(half) == list(one)
    with pytest.warns(UserWarning, match="changed"):
        EpochSampler(range(99), 4).load_state_dict(one.state_dict())


# --------------------------------------------------------------------------------- stopped, and gone on with


class Recorder(LightningModule):
    """Keeps the rows that it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.index.tolist())
        return (self.weight * batch.audio).mean()

    def validation_step(self, batch, batch_idx):
        self.log("loss", 0.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(root, folder, ckpt=None, workers=0, every=None, epoch_end=False, **options) -> list[list[int]]:
    it, module = data(root, workers=workers), Recorder()
    saver = callbacks.ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=every) if every else None
    if epoch_end:
        saver = callbacks.ModelCheckpoint(folder, "{step}", save_top_k=-1, save_on_train_epoch_end=True)
    options = {"max_steps": 30, "max_epochs": -1} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*dataloader is not resumable.*")
        trainer = Trainer(
            accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[saver] if saver else [], enable_checkpointing=bool(saver), default_root_dir=folder, **options,
        )  # fmt: skip
        trainer.fit(module, it, ckpt_path=ckpt, weights_only=False)
    return module.seen


@pytest.fixture(scope="module")
def uninterrupted(root, tmp_path_factory):
    """30 steps, two and a half epochs."""
    return run(root, tmp_path_factory.mktemp("whole"))


def test_a_run_passes_over_its_clips_in_a_new_order_each_epoch(root, uninterrupted):
    per_epoch = len(data(root).splits["train"]) // 4
    assert per_epoch < 15
    epochs = (uninterrupted[i * per_epoch : (i + 1) * per_epoch] for i in (0, 1))
    first, second = (list(itertools.chain(*epoch)) for epoch in epochs)
    assert len(set(first)) == per_epoch * 4
    assert first != second
    assert len(uninterrupted) == 30


def test_workers_do_not_change_what_is_seen(root, uninterrupted, tmp_path):
    assert run(root, tmp_path, workers=2, max_steps=16) == uninterrupted[:16]


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (5, 0), (5, 2), (16, 0), (17, 2)])
def test_a_run_stopped_in_mid_epoch_goes_on_with_the_clips_it_would_have_seen(
    root, uninterrupted, tmp_path, stop, workers
):
    run(root, tmp_path, workers=workers, every=stop, max_steps=stop)
    rest = run(root, tmp_path, ckpt=str(tmp_path / f"step={stop}.ckpt"), workers=workers)
    assert rest == uninterrupted[stop:]


@pytest.mark.parametrize("epoch_end", [False, True])
def test_a_run_stopped_at_the_end_of_an_epoch_begins_the_next(root, uninterrupted, tmp_path, epoch_end):
    per_epoch = len(data(root).splits["train"]) // 4
    every = None if epoch_end else per_epoch
    run(root, tmp_path, every=every, epoch_end=epoch_end, max_steps=per_epoch)
    assert run(root, tmp_path, ckpt=str(tmp_path / f"step={per_epoch}.ckpt")) == uninterrupted[per_epoch:]


def test_a_checkpoint_taken_on_the_way_goes_on_like_the_run_it_was_taken_from(root, uninterrupted, tmp_path):
    run(root, tmp_path, workers=1, every=7, max_steps=20)
    assert run(root, tmp_path, ckpt=str(tmp_path / "step=14.ckpt")) == uninterrupted[14:]


def test_epochs_cut_short_by_limit_train_batches_resume_as_well(root, tmp_path):
    limit = {"limit_train_batches": 3, "max_steps": 8}
    whole = run(root, tmp_path / "a", **limit)
    assert len({tuple(batch) for batch in whole}) == 8
    run(root, tmp_path / "b", every=1, **(limit | {"max_steps": 4}))
    for step in (3, 4):
        assert run(root, tmp_path / "b", ckpt=str(tmp_path / "b" / f"step={step}.ckpt"), **limit) == whole[step:]


def test_workers_of_a_process_in_a_group_are_no_forks_of_it(root):
    alone = [batch.index.tolist() for batch in data(root, workers=0).train_dataloader()]
    assert data(root, workers=1).train_dataloader().multiprocessing_context is None
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        loader = data(root, workers=1).train_dataloader()
        assert loader.multiprocessing_context.get_start_method() == "forkserver"
        assert [batch.index.tolist() for batch in loader] == alone
    finally:
        torch.distributed.destroy_process_group()


def test_overfitting_on_one_batch_is_left_to_lightning(root, tmp_path):
    assert len({tuple(batch) for batch in run(root, tmp_path, overfit_batches=1, max_steps=4)}) == 1


RANKS = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from test_datamodule import Recorder, data
from lightning.pytorch import Trainer
class Saver(Recorder):
    def on_train_end(self):
        pathlib.Path(f"rank{self.global_rank}.json").write_text(json.dumps(self.seen))
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", max_steps=int(sys.argv[3]), logger=False,
    max_epochs=-1, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
trainer.fit(Saver(), data(sys.argv[2], batch_size=2))
"""


def test_two_processes_see_at_each_step_what_one_sees(root, uninterrupted, tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, tmp_path / "ranks.py", os.path.dirname(__file__), root, "14"]
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    together = [sorted(a + b) for a, b in zip(*ranks, strict=True)]
    assert together == [sorted(batch) for batch in uninterrupted[:14]]
