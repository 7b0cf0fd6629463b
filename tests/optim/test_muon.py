"""Muon steps along matrices with equal singular values, and AdamW takes what is no wide kernel."""

import io

import pytest
import torch

from diffwave_sde.optim import MuonAdamW, newton_schulz


def kernel(shape, seed=0):
    return torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("shape", [(3, 24, 60), (2, 50, 20), (1, 1, 7)])
def test_singular_values_are_brought_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    found = newton_schulz(x)
    values = u.mT @ found @ v.mT
    values = torch.diagonal(values, dim1=1, dim2=2)
    assert found.shape == x.shape
    assert values.min() > 0.6
    assert values.max() < 1.3
    # It is the nearest such matrix in its own singular basis: nothing beside the diagonal.
    assert (u.mT @ found @ v.mT - torch.diag_embed(values)).abs().max() < 0.06


@pytest.mark.parametrize("shape", [(12, 10, 3), (8, 8, 1), (9, 2, 3, 2)])
def test_a_step_is_that_of_torch_on_a_matrix(shape):
    ours, theirs = kernel(shape), torch.nn.Parameter(kernel(shape).detach().flatten(1).clone())
    muon = MuonAdamW([ours], lr=0.01, ratio=2.0, weight_decay=0.1)
    peer = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for seed in range(4):
        ours.grad = kernel(ours.shape, seed + 1).detach()
        theirs.grad = ours.grad.flatten(1).clone()
        muon.step()
        peer.step()
    start = kernel(shape).flatten(1)
    moved = (theirs - start).norm()
    assert moved > 0.1
    assert (ours.flatten(1) - theirs).norm() < 0.04 * moved  # theirs rounds to bfloat16 everywhere


def test_vectors_matrices_and_tall_kernels_are_left_to_adamw():
    ours, theirs = ([kernel(shape) for shape in ((5,), (4, 3), (7, 2, 3))] for _ in range(2))
    muon = MuonAdamW([*ours, kernel((2, 2, 2))], lr=0.01)
    adamw = torch.optim.AdamW(theirs, 0.01, (0.9, 0.99), fused=True)
    for seed in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = kernel(a.shape, seed).detach()
            b.grad = a.grad.clone()
        muon.step()
        adamw.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def trained(steps, state=None, weights=None):
    x, layers = kernel((8, 3, 16), 5).detach(), torch.nn.Sequential(torch.nn.Conv1d(3, 6, 3), torch.nn.Conv1d(6, 2, 3))
    for i, p in enumerate(layers.parameters()):
        p.data = kernel(p.shape, i).detach()
    muon = MuonAdamW(layers.parameters(), 0.02)
    if state is not None:
        layers.load_state_dict(weights)
        muon.load_state_dict(state)

    def closure():
        muon.zero_grad()
        loss = layers(x).square().mean()
        loss.backward()
        return loss

    return [muon.step(closure).item() for _ in range(steps)], muon, layers


def test_it_goes_on_where_it_stopped_and_learns():
    whole, _, _ = trained(40)
    first, muon, layers = trained(20)
    state = torch.load(io.BytesIO(saved(muon.state_dict())), weights_only=True)
    second, _, _ = trained(20, state, layers.state_dict())
    assert whole == first + second
    assert whole[-1] < 0.5 * whole[0]


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@pytest.mark.parametrize("options", [{"ratio": 0}, {"momentum": 1}, {"iterations": 0}, {"lr": -1}])
def test_muon_refuses_nonsense(options):
    with pytest.raises(ValueError, match=r"ratio|momentum|iterations|learning rate"):
        MuonAdamW([kernel((2, 2, 2))], **options)


def test_without_kernels_or_without_vectors_it_works():
    for only in (kernel((3,)), kernel((3, 3, 3))):
        before = only.detach().clone()
        only.grad = torch.ones_like(only)
        MuonAdamW([only], 0.1).step()
        assert not torch.equal(only, before)
