"""A model of latents: with an autoencoder that does nothing it is the plain one, bit for bit."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from diffwave_sde.autoencoder import KL, ConvAutoencoder, IdentityAutoencoder
from diffwave_sde.callbacks import EMA, Likelihood
from diffwave_sde.clipping import StaticClip
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.loss import Loss
from diffwave_sde.module import DiffusionModule
from diffwave_sde.networks import MDCT, Fold, UNet
from diffwave_sde.samplers import DefaultSampler
from diffwave_sde.sde import CLD, EDM

LENGTH = 2000


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("latent"))


def sounds(root, **options) -> AudioDataModule:
    return AudioDataModule("drums", root, LENGTH, 0.0, 4, 0, count=60, **options)


def small(front=None, **options) -> UNet:
    return UNet(1, 3, front, channels=(8, 8), factors=(5,), blocks=1, embedding=8, heads=2, dropout=0.1, **options)


class Told(Callback):
    """Keeps the losses of each step."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.losses.append(pl_module.last["losses"])


def trained(root, net, steps=4, **options) -> tuple[DiffusionModule, Trainer, list]:
    torch.manual_seed(1)
    module = DiffusionModule(net(), **options)
    told = Told()
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0, val_check_interval=steps,
        check_val_every_n_epoch=None, callbacks=[EMA(), told],
    )  # fmt: skip
    trainer.fit(module, sounds(root))
    return module, trainer, told.losses


@pytest.mark.parametrize("net", [lambda: small(MDCT(20)), lambda: UNet(2, 3, channels=(8, 8), factors=(5,), blocks=1,
                         embedding=8, heads=2)], ids=["EDM", "CLD"])  # fmt: skip
def test_with_an_identity_autoencoder_losses_weights_and_sounds_are_those_of_the_plain_model(root, net):
    process = EDM if net().inputs == 1 else CLD
    plain, first, losses = trained(root, net, sde=process())
    latent, second, theirs = trained(root, net, sde=process(), autoencoder=IdentityAutoencoder())
    assert len(losses) == 4
    assert all(torch.equal(a, b) for a, b in zip(losses, theirs, strict=True))
    assert first.callback_metrics["val/loss"] == second.callback_metrics["val/loss"]
    mine, other = plain.denoiser.state_dict(), latent.denoiser.state_dict()
    assert all(torch.equal(x, other[name]) for name, x in mine.items())
    made = [
        m.eval().sample(LENGTH, torch.tensor([0, 2]), m.generators([0, 1]), DefaultSampler(3)) for m in (plain, latent)
    ]
    assert torch.equal(*made)


def test_a_model_of_latents_learns_of_frames_and_leaves_the_autoencoder_as_it_was(root):
    torch.manual_seed(0)
    autoencoder = ConvAutoencoder(KL(4), [8, 8], [5, 4])
    before = {k: v.clone() for k, v in autoencoder.state_dict().items()}
    seen = []

    def net():
        one = small(Fold(4, 20))
        one.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
        return one

    module, _, losses = trained(root, net, autoencoder=autoencoder)
    assert set(seen) == {(4, 1, 400)}
    assert all(torch.equal(x, before[k]) for k, x in module.latents.autoencoder.state_dict().items())
    assert float(module.denoiser.sigma_data) == 1
    # Of what is noised the deviation is 1, so that Karras's weight starts at losses of about 1.
    assert 0.5 < float(torch.cat(losses).mean()) < 2
    data = sounds(root)
    y = module.latents.encode(torch.cat(list(data.subsample(100)))[:, None].float())
    assert abs(float(y.std()) - 1) < 0.05
    x = module.eval().sample(1999, torch.tensor([0, 1]), module.generators([0, 1]), DefaultSampler(2))
    assert x.shape == (2, 1, 1999)


def test_what_a_model_of_latents_cannot_be_is_refused():
    autoencoder = ConvAutoencoder(KL(4), [8, 8], [5, 4])
    with pytest.raises(ValueError, match="is MDCT of 20 bands and the latents have 4 channels: set --model"):
        DiffusionModule(small(MDCT(20)), autoencoder=autoencoder)
    with pytest.raises(ValueError, match="MDCT of 20 bands"):
        DiffusionModule(small(Fold(4)), weak=small(MDCT(20)), autoencoder=autoencoder)
    with pytest.raises(ValueError, match="by attention alone"):
        DiffusionModule(small(Fold(4), context="concat"), autoencoder=autoencoder)
    module = DiffusionModule(small(Fold(4)), autoencoder=autoencoder, loss=Loss())
    with pytest.raises(ValueError, match="leave --clip out"):
        module.sample(LENGTH, None, None, count=1, wrap=StaticClip)
    with pytest.raises(ValueError, match="says nothing of how likely"):
        Likelihood().setup(SimpleNamespace(), module, "fit")
