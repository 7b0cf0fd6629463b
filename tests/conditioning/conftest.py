"""What several tests of conditioning share."""

import paired_run
import pytest


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run of two steps on stems."""
    return paired_run.fit(tmp_path_factory.mktemp("stems"))
