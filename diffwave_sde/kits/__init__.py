"""Drum kits to take away: a model's sounds on the keys of a sampler.

kit             what a kit is, for any program
keys            General MIDI notes, by class and by how a sound is
hits            how hard, how bright, how long
mastering       rate, silence, level
sfz, hydrogen, decent
                a kit as each program reads it
"""

from diffwave_sde.kits.kit import Instrument, Kit, Sample, layered

__all__ = ["Instrument", "Kit", "Sample", "layered"]
