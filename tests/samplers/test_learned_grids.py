"""Learned grids: the terms of the bound, and that the programme finds the best path."""

import itertools

import pytest
import torch
from truth import GAUSSIAN, MIXTURE, Oracle

from diffwave_sde.samplers import DDIM, KarrasGrid, LearnedGrid, LogSNRGrid, UniformGrid
from diffwave_sde.samplers.learned import best_paths, errors, terms
from diffwave_sde.sde import CLD, EDM, VP


@pytest.mark.parametrize("sde", [VP(), EDM(), CLD()], ids=["VP", "EDM", "CLD"])
def test_errors_are_those_of_the_exact_denoiser(sde):
    times = LogSNRGrid()(sde, 12)
    x = GAUSSIAN.sample((40, 1, 500), torch.Generator().manual_seed(0))
    oracle = Oracle(sde, GAUSSIAN)
    found = errors(oracle, x, times, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, 1 / (4 + sde.kernel(times).snr), rtol=0.05, atol=0)
    assert oracle.calls == 12


@pytest.mark.parametrize("sde", [VP(), CLD()], ids=["VP", "CLD"])
def test_terms_are_divergences_of_posteriors(sde):
    times = LogSNRGrid()(sde, 8)
    table = terms(sde, times, torch.full((8,), 0.3).double())
    for i, j in itertools.combinations(range(8), 2):
        _, signal, covariance = sde.posterior(times[j : j + 1], times[i : i + 1])
        p, q = (
            torch.distributions.MultivariateNormal(signal[0] * v, covariance[0] + 0 * covariance[0].mT)
            for v in (0.0, 0.3**0.5)
        )
        torch.testing.assert_close(table[i, j], torch.distributions.kl_divergence(p, q), rtol=1e-4, atol=1e-9)
    assert table[torch.ones(8, 8).tril().bool()].isinf().all()


@pytest.mark.parametrize("seed", range(3))
def test_the_programme_finds_what_trying_all_does(seed):
    g = torch.Generator().manual_seed(seed)
    table = torch.rand(9, 9, generator=g).double().masked_fill(~torch.ones(9, 9).bool().triu(1), torch.inf)
    paths = best_paths(table, [2, 3, 5, 9])
    for k, path in paths.items():
        assert len(path) == k
        assert path[0] == 0
        assert path[-1] == 8
        total = min(
            sum(float(table[a, b]) for a, b in itertools.pairwise((0, *middle, 8)))
            for middle in itertools.combinations(range(1, 8), k - 2)
        )
        assert sum(float(table[a, b]) for a, b in itertools.pairwise(path)) == pytest.approx(total)
    for wrong in (1, 10):
        with pytest.raises(ValueError, match=f"steps = {wrong}"):
            best_paths(table, [wrong])


def test_a_learned_grid_has_a_better_bound_than_any_fixed_one():
    sde = VP()
    times = LogSNRGrid()(sde, 400)
    x = MIXTURE.sample((20, 1, 200), torch.Generator().manual_seed(0))
    table = terms(sde, times, errors(Oracle(sde, MIXTURE), x, times, generator=torch.Generator().manual_seed(1)))
    for k, path in best_paths(table, [5, 10, 20]).items():
        bounds = []
        for grid in (UniformGrid(), LogSNRGrid(), KarrasGrid()):
            nearest = (times[:, None] - grid(sde, k)).abs().argmin(0).unique()
            bounds.append(float(table[nearest[:-1], nearest[1:]].sum()))
        best = torch.tensor(path)
        assert float(table[best[:-1], best[1:]].sum()) < min(bounds)
        assert (times[best].diff() < 0).all()


def test_a_grid_goes_through_a_file(tmp_path):
    file = tmp_path / "schedule.yaml"
    file.write_text("3: [1.0, 0.4, 1.0e-05]\n4: [1.0, 0.5, 0.1, 1.0e-05]\n")
    assert LearnedGrid(str(file))(VP(), 3).tolist() == [1.0, 0.4, 1e-5]
    x = DDIM(4, LearnedGrid(str(file)))(Oracle(VP(), MIXTURE), VP().prior((1, 1, 9)).double())
    assert x.isfinite().all()
    with pytest.raises(ValueError, match=r"grids of 3, 4 steps, not of 7"):
        LearnedGrid(str(file))(VP(), 7)
    with pytest.raises(FileNotFoundError, match="diffwave-sde schedule"):
        LearnedGrid(str(tmp_path / "none.yaml"))
    file.write_text("just words")
    with pytest.raises(ValueError, match="holds no grids"):
        LearnedGrid(str(file))
