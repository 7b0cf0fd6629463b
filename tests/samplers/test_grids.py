import pytest
import torch
from truth import GRIDS, PROCESSES

from diffwave_sde.samplers import (
    CosineGrid,
    CrashGrid,
    DiscreteGrid,
    KarrasGrid,
    LogNormalGrid,
    LogSNRGrid,
    QuadraticGrid,
    TimesGrid,
    UniformGrid,
)
from diffwave_sde.sde import DDPM, EDM, VE, VP


@pytest.mark.parametrize("steps", [2, 3, 18, 200])
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_falls_from_t_max_to_t_min_exactly(sde, name, steps):
    times = GRIDS[name](sde, steps)
    assert times.shape == (steps,)
    assert times.dtype == torch.float64
    assert float(times[0]) == sde.t_max
    # CRASH's ends one step before it, and jumps.
    end = sde.t_min + (sde.t_max - sde.t_min) / steps if name == "CrashGrid" else sde.t_min
    end = float(KarrasGrid()(sde, steps + 1)[-2]) if name == "JumpGrid" else end
    assert float(times[-1]) == pytest.approx(end, rel=1e-12 if name == "CrashGrid" else 0)
    assert (times.diff() < 0).all()


def test_a_chain_is_strided_evenly():
    sde = DDPM(100, "cosine")
    torch.testing.assert_close(DiscreteGrid()(sde, 100), torch.arange(100, 0, -1).double() / 100)
    strided = DiscreteGrid()(sde, 12) * 100
    torch.testing.assert_close(strided, strided.round())
    assert strided.diff().round().tolist() == [-9.0] * 11
    torch.testing.assert_close(DiscreteGrid(50)(VP(), 50), UniformGrid()(VP(), 50))
    with pytest.raises(ValueError, match="steps = 101: the chain has 100"):
        DiscreteGrid()(sde, 101)
    with pytest.raises(ValueError, match="chain = 1"):
        DiscreteGrid(1)


def test_uniform_steps_are_equal(sde):
    steps = UniformGrid()(sde, 11).diff()
    torch.testing.assert_close(steps, torch.full_like(steps, (sde.t_min - sde.t_max) / 10), rtol=1e-10, atol=0)


def test_quadratic_steps_are_equal_in_the_root(sde):
    steps = QuadraticGrid()(sde, 11).sqrt().diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-9, atol=0)


def test_crash_steps_are_equal(sde):
    steps = CrashGrid()(sde, 11).diff()
    torch.testing.assert_close(steps, torch.full_like(steps, (sde.t_min - sde.t_max) / 11), rtol=1e-10, atol=0)


def spacing(sde, grid, f, tolerance):
    steps = f(sde.kernel(grid(sde, 20)).snr).diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", PROCESSES)
def test_log_snr_steps_are_equal(name):
    spacing(PROCESSES[name], LogSNRGrid(), torch.log, 1e-4 if "under" in name else 1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_cosine_steps_are_equal_in_the_angle(name):
    # At full noise the angle is all but a quarter turn, and the SNR that it stands for has few digits left.
    spacing(PROCESSES[name], CosineGrid(), lambda snr: snr.rsqrt().atan(), 1e-4 if "under" in name else 1e-7)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_steps_are_equal_in_a_power_of_sigma(name, rho):
    # At ρ = 1 the last steps span decades of the SNR: looser.
    spacing(PROCESSES[name], KarrasGrid(rho), lambda snr: snr ** (-0.5 / rho), 1e-4 if "under" in name else 1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_log_normal_steps_hold_equal_shares_of_the_law(name):
    law = torch.distributions.Normal(torch.tensor(-2.0).double(), torch.tensor(4.0).double())
    tolerance = 1e-4 if "under" in name else 1e-7
    spacing(PROCESSES[name], LogNormalGrid(-2.0, 4.0), lambda snr: law.cdf(snr.rsqrt().log()), tolerance)


def test_a_wide_law_is_that_of_equal_steps_of_the_log_snr():
    a, b = LogNormalGrid(0.0, 1e4)(EDM(), 20), LogSNRGrid()(EDM(), 20)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=0)


@pytest.mark.parametrize("sde", [EDM(0.002, 80.0), VE(0.01, 50.0)], ids=["EDM", "VE"])
def test_karras_grid_is_equation_5_of_edm(sde):
    low, high = sde.sigma(torch.tensor([sde.t_min, 1.0], dtype=torch.float64)).tolist()
    expected = [(high ** (1 / 7) + i / 17 * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(18)]
    got = sde.sigma(KarrasGrid()(sde, 18))
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


def test_given_times_are_taken_as_they_are():
    times = [1.0, 0.4, 0.1, 1e-3]
    assert TimesGrid(times)(VP(), 4).tolist() == times


@pytest.mark.parametrize(
    ("grid", "steps", "says"),
    [
        (UniformGrid(), 1, "steps = 1"),
        (KarrasGrid(), 0, "steps = 0"),
        (TimesGrid([1.0, 0.5]), 3, "holds 2 times: set steps to 2"),
        (TimesGrid([1.0, 0.5, 0.5]), 3, "falling"),
        (TimesGrid([0.1, 0.5, 1.0]), 3, "falling"),
        (TimesGrid([1.0, float("nan"), 0.1]), 3, "falling"),
        (TimesGrid([1.5, 0.5, 0.1]), 3, "leaves the times"),
        (TimesGrid([1.0, 0.5, 0.0]), 3, "leaves the times"),
        (TimesGrid([1.0, 0.5, -0.1]), 3, "leaves the times"),
        (TimesGrid([float("inf"), 0.5, 0.1]), 3, "leaves the times"),
    ],
)
def test_bad_grids_are_refused(grid, steps, says):
    with pytest.raises(ValueError, match=says):
        grid(VP(), steps)


def test_a_power_of_nothing_is_refused():
    with pytest.raises(ValueError, match="rho"):
        KarrasGrid(0.0)


def test_a_law_without_a_width_is_refused():
    with pytest.raises(ValueError, match="std = 0"):
        LogNormalGrid(std=0.0)
