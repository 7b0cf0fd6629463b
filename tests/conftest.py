"""What the tests run over: every concrete class of the package."""

import pytest
import torch
from truth import DEFAULTS, PARAMETRIZATIONS, PROCESSES, WEIGHTS

from diffwave_sde.loss import Weight
from diffwave_sde.parametrization import Parametrization
from diffwave_sde.sde import SDE

# Tensors of a few hundred numbers are not shared out with profit, least of all on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(params=PROCESSES)
def sde(request) -> SDE:
    """Every process: each class with its defaults, and Langevin dynamics off critical damping."""
    return PROCESSES[request.param]


@pytest.fixture(params=DEFAULTS)
def default_sde(request) -> SDE:
    """Every process with its defaults."""
    return PROCESSES[request.param]


@pytest.fixture(params=PARAMETRIZATIONS)
def parametrization(request) -> Parametrization:
    return PARAMETRIZATIONS[request.param]


@pytest.fixture(params=WEIGHTS)
def weight(request) -> Weight:
    return WEIGHTS[request.param]
