import pytest
import torch
from truth import TIMES, within

from diffwave_sde.loss import DiscreteTime, ImportanceTime, LogNormalSigma, UniformTime
from diffwave_sde.sde import CLD, DDPM, EDM, VP


@pytest.mark.parametrize("name", TIMES)
def test_times_follow_their_quantile(sde, name):
    q = torch.linspace(0, 1 - 1e-9, 101, dtype=torch.float64)
    t = TIMES[name](sde, q)
    assert t.dtype == torch.float64
    assert (t >= sde.t_min).all()
    assert (t <= sde.t_max).all()
    assert (t.diff() > -1e-9).all()
    assert t[-1] > t[0]
    assert TIMES[name](sde, q.float()).dtype == torch.float64


def test_uniform_times_are_uniform(sde):
    q = torch.tensor([0.0, 0.25, 0.5])
    torch.testing.assert_close(UniformTime()(sde, q), sde.t_min + q.double() * (sde.t_max - sde.t_min))


def test_log_normal_sigma_is_log_normal(default_sde):
    q = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    kernel = default_sde.kernel(LogNormalSigma(-1.2, 1.2)(default_sde, q))
    log_sigma = -0.5 * kernel.snr.log()
    expected = -1.2 + 1.2 * torch.distributions.Normal(0.0, 1.0).icdf(q)
    ends = -0.5 * default_sde.kernel(torch.tensor([default_sde.t_min, default_sde.t_max]).double()).snr.log()
    torch.testing.assert_close(log_sigma, expected.clamp(*ends), rtol=0, atol=1e-9)


def test_a_spread_of_nothing_is_refused():
    with pytest.raises(ValueError, match="std"):
        LogNormalSigma(std=0.0)


def test_discrete_times_are_those_of_the_grid(default_sde):
    q = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    t = DiscreteTime(50)(default_sde, q)
    grid = default_sde.t_max * torch.arange(1, 51, dtype=torch.float64) / 50
    values, counts = t.unique(return_counts=True)
    torch.testing.assert_close(values, grid.clamp_min(default_sde.t_min))
    assert (counts == 100).all()


def test_a_discrete_process_knows_its_own_grid():
    q = (torch.arange(40) + 0.5) / 40
    torch.testing.assert_close(DiscreteTime()(DDPM(40, "cosine"), q), torch.arange(1, 41, dtype=torch.float64) / 40)
    assert DiscreteTime().count(VP()) == 1000
    # ... and that is where DDPM trains: at each β once.
    sde = DDPM(40, "cosine")
    torch.testing.assert_close(sde.kernel(DiscreteTime()(sde, q)).M[:, 0] ** 2, torch.tensor(1 - sde.beta).cumprod(0))


# -------------------------------------------------------------------------------------- importance


def loss_at(t):
    """A loss that a few times are responsible for."""
    return 0.01 + (t > 0.8) * 3.0


def taught(rounds=60, seed=0, **options):
    time, sde = ImportanceTime(buckets=10, **options), VP()
    g = torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        t = time(sde, torch.rand(64, generator=g))
        time.observe(sde, t, loss_at(t))
    return time, sde


def test_nothing_is_preferred_before_all_has_been_seen():
    time, sde, q = ImportanceTime(), VP(), torch.linspace(0, 0.999, 57)
    torch.testing.assert_close(time(sde, q), UniformTime()(sde, q), rtol=0, atol=1e-9)
    time.observe(sde, torch.tensor([0.9]), torch.tensor([100.0]))
    torch.testing.assert_close(time(sde, q), UniformTime()(sde, q), rtol=0, atol=1e-9)
    torch.testing.assert_close(time.correction(sde, time(sde, q)), torch.ones(57).double())


def test_times_come_in_proportion_to_the_root_of_the_second_moment():
    time, sde = taught()
    p = time.probabilities()
    expected = torch.tensor([0.01] * 8 + [3.01] * 2).double()
    torch.testing.assert_close(p, 0.99 * expected / expected.sum() + 0.001, rtol=1e-3, atol=0)
    t = time(sde, (torch.arange(100_000) + 0.5) / 100_000)
    assert ((t > 0.8).double().mean() - p[8:].sum()).abs() < 1e-4
    assert (t.diff() >= 0).all()


def test_the_correction_keeps_the_mean_and_takes_the_variance():
    time, sde = taught()
    g = torch.Generator().manual_seed(7)
    even = loss_at(UniformTime()(sde, torch.rand(20_000, generator=g)))
    t = time(sde, torch.rand(20_000, generator=g))
    corrected = loss_at(t) * time.correction(sde, t)
    within(corrected, 0.01 + 0.2 * 3.0)
    assert corrected.std() < 0.2 * even.std()
    # In the whole: a quadrature of the corrected loss is that of the plain one.
    q = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t = time(sde, q)
    torch.testing.assert_close((t * time.correction(sde, t)).mean(), UniformTime()(sde, q).mean(), rtol=1e-4, atol=0)


def test_it_works_upon_any_law():
    for base, sde in ((LogNormalSigma(), EDM()), (DiscreteTime(200), VP()), (LogNormalSigma(-3.0, 2.0), CLD())):
        time = ImportanceTime(base, buckets=8, history=1)
        g = torch.Generator().manual_seed(0)
        for _ in range(20):
            t = time(sde, torch.rand(64, generator=g))
            time.observe(sde, t, sde.kernel(t).snr.rsqrt().clamp(0.01, 3))
        q = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
        t = time(sde, q)
        assert time.correction(sde, t).std() > 0.1
        value = sde.kernel(t).snr.rsqrt().log()
        plain = sde.kernel(base(sde, q)).snr.rsqrt().log()
        torch.testing.assert_close((value * time.correction(sde, t)).mean(), plain.mean(), rtol=5e-3, atol=5e-3)


def test_what_it_has_learned_is_saved_and_a_spike_does_not_break_it():
    time, sde = taught()
    again = ImportanceTime(buckets=10)
    again.load_state_dict(time.state_dict())
    q = torch.linspace(0, 0.999, 33)
    assert torch.equal(again(sde, q), time(sde, q))
    time.observe(sde, torch.tensor([0.5, 0.6]), torch.tensor([float("nan"), float("inf")]))
    assert time.probabilities().isfinite().all()


def test_the_old_is_forgotten():
    time, sde = taught()
    for _ in range(200):
        t = time(sde, torch.rand(64))
        time.observe(sde, t, torch.ones(64))
    torch.testing.assert_close(time.probabilities(), torch.full((10,), 0.1).double(), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DiscreteTime(1), "steps = 1"),
        (lambda: ImportanceTime(buckets=1), "buckets = 1"),
        (lambda: ImportanceTime(history=0), "history = 0"),
        (lambda: ImportanceTime(uniform=0.0), "uniform = 0"),
    ],
)
def test_impossible_laws_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
