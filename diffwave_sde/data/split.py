"""Training, validation and test: which clip goes where.

A clip's place is a function of its content alone,

    u = BLAKE2b(digest or kit) in [0, 1):      u < test: test;     u < test + validation: validation;     else train

so it stays where it is when files are added.
"""

from __future__ import annotations

import hashlib

import numpy as np


def split(groups: np.ndarray, validation: float, test: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the training, validation and test clips.

    Args:
        groups: (n,) what must not be split: digests, or names of kits
        validation: share, in [0, 1)
        test: share, in [0, 1)

    Where a share is asked for and chance gives it nothing (five files, three kits), it gets the one group that
    comes nearest to it, as long as training keeps one.
    """
    names, inverse = np.unique(groups, return_inverse=True)
    # hashed again: the hash of a sound is even, a kit's name is not
    u = np.array([_share(name) for name in names.tolist()])
    part = np.where(u < test, 2, np.where(u < test + validation, 1, 0))
    for which, share in ((1, validation), (2, test)):
        free = np.flatnonzero(part == 0)
        if share and not (part == which).any() and len(free) > 1:
            part[free[u[free].argmin()]] = which
    if not (part == 0).any() and len(part):
        part[u.argmax()] = 0
    rows = part[inverse]
    return tuple(np.flatnonzero(rows == which) for which in (0, 1, 2))


def _share(name: str | bytes) -> float:
    name = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "big") / 2**56
