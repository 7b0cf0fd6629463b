"""How the sound of a stage goes to the next one: conditioning augmentation."""

from __future__ import annotations

from dataclasses import dataclass

from diffwave_sde.bounds import positive


@dataclass(frozen=True)
class Handover:
    """How the sound of a stage goes to the next one, which is told how noisy it is.

    Source: Ho et al. 2022, section 4 (conditioning augmentation, truncated and non-truncated); Saharia et al. 2022,
    section 2.3 (a level that the upsampler is told, chosen at sampling).

    Args:
        level: noise level σ of what is handed over, in units of the waveform; the larger, the less of the errors of a
            stage reaches the next one, and the less of what it made.
        truncated: whether the stage is stopped at that level, and its state goes on; else it is finished, and noised
            afresh.

    Raises:
        ValueError: if the level is not positive.
    """

    level: float = 0.003
    truncated: bool = False

    def __post_init__(self) -> None:
        positive(level=self.level)

    def __str__(self) -> str:
        return f"{'truncated' if self.truncated else 'noised afresh'} at σ = {self.level:g}"
