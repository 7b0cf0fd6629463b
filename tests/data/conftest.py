import pytest
from few import COUNT, LENGTH

from diffwave_sde.data.build import prepare


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where the store of a few drums lies."""
    path = tmp_path_factory.mktemp("data")
    prepare("drums", path, LENGTH, COUNT, progress=False)
    return path
