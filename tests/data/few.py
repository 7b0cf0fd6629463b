"""A few short drums, as most tests of the data module use them."""

from diffwave_sde.data.module import AudioDataModule

COUNT, LENGTH = 60, 500


def data(root, **options) -> AudioDataModule:
    """Their data module; `root` is the fixture of that name."""
    defaults = {"length": LENGTH, "count": COUNT, "batch_size": 4, "workers": 0}
    return AudioDataModule("drums", str(root), **(defaults | options))
