"""One server for all tests of the page, with the shipped model at few steps."""

import pytest

from diffwave_sde.cli import demo
from diffwave_sde.demo.studio import Settings

FEW = ["--ckpt", "drums", "--device", "cpu", "--port", "0", "--sampler", "DPMSolver2M", "--sampler.steps", "2"]
LONG = Settings(sampler="DDIM", steps=200)


@pytest.fixture(scope="module")
def server():
    made = demo.prepare(demo.parser().parse_args(FEW))
    made.url = made.launch()
    yield made
    made.close()
