"""One server for all tests of the page, with the shipped model at few steps."""

import socket

import pytest

from diffwave_sde.cli import demo

FEW = ["--ckpt", "drums", "--device", "cpu", "--port", "0", "--sampler", "DPMSolver2M", "--sampler.steps", "2"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """It listens; `reached` are the addresses that this process has connected to since."""
    reached, connect = [], socket.socket.connect

    def told(self, address):
        reached.append(address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(socket.socket, "connect", told)
        made = demo.prepare(demo.parser().parse_args(FEW))
        made.reached, made.url = reached, made.launch()
        yield made
        made.close()
