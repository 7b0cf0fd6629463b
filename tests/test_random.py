import itertools
import math

import pytest
import torch

from diffwave_sde.random import MASK, CounterStreams, fill, philox, rand, randn, stream


def test_the_same_key_gives_the_same_numbers():
    a, b = (torch.randn(100, generator=stream(3, "noise", 7)) for _ in range(2))
    assert torch.equal(a, b)


def test_different_keys_give_different_numbers():
    keys = [(0,), (1,), ("0",), (0, 0), (0, 1), (1, 0), ("a", "b"), ("ab",), ("a b",), (-1,), (2**40,), (12,), (1, 2)]
    draws = [torch.randn(8, generator=stream(*key)) for key in keys]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(draws, 2))


def test_streams_of_neighbouring_keys_are_independent():
    draws = torch.stack([torch.randn(500, generator=stream(0, i)) for i in range(200)])
    correlation = torch.corrcoef(draws) - torch.eye(200)
    assert correlation.abs().max() < 6 / math.sqrt(500)
    # The first number of each stream is itself a normal sample: seeds are spread by a hash.
    first = draws[:, 0]
    assert abs(first.mean()) < 4 / math.sqrt(200)
    assert abs(first.var() - 1) < 4 * math.sqrt(2 / 200)


def test_a_stream_does_not_touch_the_global_one():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    torch.randn(5, generator=stream("elsewhere"))
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("draw", [rand, randn])
def test_each_row_is_drawn_from_its_own_generator(draw):
    whole = draw((4, 2, 3), [stream("row", i) for i in range(4)])
    assert whole.shape == (4, 2, 3)
    for i in range(4):
        assert torch.equal(draw((1, 2, 3), [stream("row", i)])[0], whole[i])


def test_one_generator_serves_the_whole_batch():
    assert torch.equal(randn((4, 3), stream(1)), torch.randn(4, 3, generator=stream(1)))
    assert torch.equal(rand((4, 3), stream(1)), torch.rand(4, 3, generator=stream(1)))


def test_no_generator_is_torchs_own():
    torch.manual_seed(5)
    expected = torch.randn(2, 2)
    torch.manual_seed(5)
    assert torch.equal(randn((2, 2)), expected)


def test_a_wrong_number_of_generators_is_refused():
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        randn((3, 4), [stream(0), stream(1)])


def test_laws_are_standard():
    z, u = randn((1000, 100), stream(0), torch.float64), rand((1000, 100), stream(0), torch.float64)
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.01


def test_threads_draw_what_one_does():
    one, four = (torch.empty(5, 2, 3) for _ in range(2))
    fill(torch.randn, one, [stream("row", i) for i in range(5)], 1)
    fill(torch.randn, four, [stream("row", i) for i in range(5)], 4)
    assert torch.equal(one, four)


# Random123's known answers: a counter, a key, 4 x 32 bits.
KNOWN = [
    ([0] * 4, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([MASK] * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        0x299F31D0_A4093822,
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "bits"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, bits):
    found = philox([torch.tensor([c]) for c in counter], key)
    assert " ".join(f"{b.item():08x}" for b in found) == bits


@pytest.mark.parametrize("draw", [rand, randn])
def test_a_row_of_counter_streams_depends_on_its_number_alone(draw):
    whole, some = CounterStreams("a", rows=torch.arange(5)), CounterStreams("a", rows=torch.tensor([3, 1]))
    other = CounterStreams("b", rows=torch.arange(5))
    first = draw((5, 2, 3), whole)
    assert torch.equal(draw((2, 2, 3), some), first[[3, 1]])
    second = draw((5, 2, 3), whole)
    assert torch.equal(draw((2, 2, 3), some), second[[3, 1]])
    different = [*first, *second, *draw((5, 2, 3), other)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(different, 2))


def test_counter_streams_are_normal_and_uniform():
    n, streams_ = 200_001, CounterStreams(7, rows=torch.tensor([0, 2**40]))
    normal, uniform = randn((2, n), streams_).double(), rand((2, n), streams_).double()
    within = 5 / math.sqrt(2 * n)
    for k, moment in {1: 0, 2: 1, 3: 0, 4: 3}.items():
        spread = math.sqrt(math.prod(range(1, 2 * k, 2)) - moment**2)
        assert abs(normal.pow(k).mean() - moment) < within * spread
        assert abs(uniform.pow(k).mean() - 1 / (k + 1)) < within
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(torch.corrcoef(normal)[0, 1]) < 2 * within
    assert abs((normal[:, 1:] * normal[:, :-1]).mean()) < within  # neighbours


def test_threads_draw_in_inference_mode_what_one_draws():
    expected = torch.empty(6, 3)
    fill(torch.randn, expected, [stream(i) for i in range(6)])
    with torch.inference_mode():
        found = torch.empty(6, 3)
        fill(torch.randn, found, [stream(i) for i in range(6)], parts=3)
    assert torch.equal(found, expected)
