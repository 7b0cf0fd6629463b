"""Bottlenecks: their laws, their codes, and what is counted of these."""

import builtins
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffwave_sde.autoencoder import FSQ, KL, ResidualVQ, VectorQuantizer
from diffwave_sde.autoencoder.bottlenecks import library
from diffwave_sde.autoencoder_module import CodeUsage


def test_the_divergence_is_that_of_torch_and_the_draws_have_these_moments():
    bottleneck = KL(2, weight=0.5)
    h = torch.randn(3, 4, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    mean, log_variance = bottleneck.moments(h)
    exact = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).flatten(1).mean(1)
    torch.testing.assert_close(bottleneck(h).loss, 0.5 * exact)
    assert torch.equal(bottleneck.latent(h), mean)
    many = torch.cat([bottleneck(h, torch.Generator().manual_seed(n)).z for n in range(4000)]).unflatten(0, (-1, 3))
    error = (many - mean).mean(0) / (0.5 * log_variance).exp()
    assert float(error.abs().max()) < 5 / 4000**0.5
    torch.testing.assert_close(many.std(0), (0.5 * log_variance).exp(), rtol=0.1, atol=0)


def known(codes: torch.Tensor, restart: float = 0.0) -> VectorQuantizer:
    """A quantiser whose codes (K, dim) are these."""
    bottleneck = VectorQuantizer(codes.shape[1], len(codes), restart=restart)
    book = bottleneck.quantizer.layers[0]._codebook
    book.embed.data.copy_(codes)
    book.embed_avg.data.copy_(codes)
    book.cluster_size.data.fill_(1)
    book.initted.data.fill_(True)
    return bottleneck


def test_the_nearest_code_is_taken_and_what_is_counted_is_the_share_and_the_perplexity():
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    bottleneck = known(codes).eval()
    assert torch.equal(bottleneck.codebooks[0], codes)
    h = torch.tensor([[[0.1, 0.9, 0.8, -0.1], [0.0, 0.1, -0.2, 1.2]]])
    z, loss, taken = bottleneck(h)
    assert taken[0, :, 0].tolist() == [0, 1, 1, 2]
    torch.testing.assert_close(z[0].mT, codes[[0, 1, 1, 2]])
    torch.testing.assert_close(bottleneck.settle(h), z)
    assert loss.shape == (1,)
    usage = CodeUsage(bottleneck.codes)
    usage.update(taken[:, :2])
    usage.update(taken[:, 2:])
    p = torch.tensor([0.25, 0.5, 0.25])
    found = usage.compute()
    torch.testing.assert_close(found["codebook_usage"], torch.tensor(0.75))
    torch.testing.assert_close(found["perplexity"], (-(p * p.log()).sum()).exp())


def test_a_dead_code_is_put_where_something_is_and_one_in_use_follows_its_mean():
    torch.manual_seed(0)
    codes = torch.tensor([[0.0, 0.0], [100.0, 100.0]])
    h = torch.randn(4, 2, 50) + torch.tensor([1.0, 0.0])[:, None]
    for restart, lives in ((2.0, True), (0.0, False)):
        bottleneck = known(codes, restart).train()
        for _ in range(20):
            bottleneck(h)
        book = bottleneck.codebooks[0]
        assert bool(book[1].abs().max() < 10) == lives
        assert len(bottleneck.eval()(h).codes.unique()) == 1 + lives
        if not lives:
            assert 0.1 < float(book[0, 0]) < 1.1


def test_a_gradient_goes_through_to_the_encoder():
    for bottleneck in (VectorQuantizer(2, 4), ResidualVQ(2, 2, 4), FSQ(2, [4, 4])):
        h = torch.randn(2, 2, 10, requires_grad=True)
        z, loss, codes = bottleneck(h)
        (z.square().sum() + loss.sum()).backward()
        assert h.grad.abs().sum() > 0
        assert all(
            0 <= int(c.min()) <= int(c.max()) < k for c, k in zip(codes.unbind(-1), bottleneck.codes, strict=True)
        )


def test_residual_codebooks_each_halve_the_error_that_is_left():
    torch.manual_seed(0)
    h = torch.randn(16, 4, 50)
    errors = []
    for quantizers in (1, 2, 3):
        bottleneck = ResidualVQ(4, quantizers, 16, decay=0.8)
        for _ in range(30):
            bottleneck(h)
        errors.append(float((bottleneck.eval().settle(h) - h).square().mean()))
    assert errors[2] < 0.7 * errors[1] < 0.7 * 0.7 * errors[0]


def follow(rank: int, folder: Path, synchronized: bool) -> None:
    """One of two processes: k-means, steps and restarts of its own half of each batch."""
    group = f"file://{folder / f'group-{synchronized}'}"
    torch.distributed.init_process_group("gloo", group, rank=rank, world_size=2)
    exact, fresh = known(CODES).train(), ResidualVQ(2, 2, 4).train()
    if synchronized:
        exact.synchronize()
        fresh.synchronize()
    for number, batch in enumerate(batches()):
        torch.manual_seed(10 * number + rank)
        exact(batch[rank::2])
        fresh(batch[rank::2])
    torch.save((exact.codebooks, fresh.codebooks), folder / f"{synchronized}-{rank}.pt")
    torch.distributed.destroy_process_group()


CODES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])


def batches() -> torch.Tensor:
    return torch.randn(5, 4, 2, 30, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("synchronized", [True, False])
def test_codes_of_two_processes_follow_the_batches_of_both(synchronized, tmp_path):
    alone = known(CODES).train()
    for batch in batches():
        alone(batch)
    torch.multiprocessing.spawn(follow, (tmp_path, synchronized), nprocs=2)
    here, there = (torch.load(tmp_path / f"{synchronized}-{rank}.pt") for rank in (0, 1))
    assert torch.equal(here[0], there[0]) == torch.equal(here[1], there[1]) == synchronized
    if synchronized:
        torch.testing.assert_close(here[0], alone.codebooks, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [None, 2])
def test_settling_on_codes_is_what_the_quantiser_does_when_it_does_not_learn(dim):
    torch.manual_seed(0)
    bottleneck, h = ResidualVQ(4, 3, 16, dim), torch.randn(8, 4, 50)
    bottleneck(h)
    bottleneck.eval()
    settled = bottleneck.settle(h)
    torch.testing.assert_close(settled, bottleneck(h).z)
    assert len(settled.mT.flatten(0, 1).unique(dim=0)) > 50


def test_a_package_that_is_missing_is_told_with_the_remedy(monkeypatch):
    def missing(name, *rest, **more):
        if name == "vector_quantize_pytorch":
            raise ModuleNotFoundError(name)
        return there(name, *rest, **more)

    there = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(
        ModuleNotFoundError, match=r"need vector-quantize-pytorch: pip install 'diffwave-sde\[latents\]'"
    ):
        ResidualVQ()
    assert library("math").pi > 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KL(0), "channels = 0"),
        (lambda: KL(weight=-1), "weight = -1"),
        (lambda: VectorQuantizer(codes=0), "codes = 0"),
        (lambda: ResidualVQ(decay=1), "decay = 1"),
        (lambda: FSQ(levels=[1]), r"levels = \[1\]"),
    ],
)
def test_numbers_out_of_their_range_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
