"""A small real data set to train on: 1,797 handwritten digits of 8 × 8 pixels.

Source: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits* (test set), UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, licensed CC BY 4.0. ``NOTICE.md`` beside the data says what was
changed.
"""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SIDE = 8
"""Pixels along each edge of an image."""
HELD_OUT = 360
"""Images that ``split`` keeps for evaluation: one in five."""


class Digits(NamedTuple):
    """``images`` float32 ``[n, 64]``, rows of pixels from 0 (paper) to 1 (ink), and ``labels`` int64 ``[n]``."""

    images: Images
    labels: Labels


class Split(NamedTuple):
    """Two parts of the digits that have no image in common."""

    train: Digits
    held_out: Digits


def digits() -> Digits:
    """All 1,797 digits, in the order of the source."""
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as stored:
        images, labels = stored["images"], stored["labels"]
    return Digits(images.reshape(len(images), SIDE * SIDE).astype(np.float32) / 16, labels.astype(np.int64))


def split(seed: int = 0) -> Split:
    """The digits shuffled by ``seed`` into 1,437 for training and 360 held out; same seed, same split."""
    images, labels = digits()
    order = np.random.default_rng(seed).permutation(len(labels))
    train, held_out = order[HELD_OUT:], order[:HELD_OUT]
    return Split(Digits(images[train], labels[train]), Digits(images[held_out], labels[held_out]))


def changed_task(images: Images) -> Images:
    """A task that looks different and has the same answers: each image turned left by 90 degrees, ink made paper.

    ``y = 1 - turn(x)`` for images ``[n, 64]``. ValueError if they have another shape.
    """
    if images.ndim != 2 or images.shape[1] != SIDE * SIDE:
        raise ValueError(f"images: expected shape [n, {SIDE * SIDE}], got {list(images.shape)}")
    turned = np.rot90(images.reshape(len(images), SIDE, SIDE), axes=(1, 2))
    return np.subtract(1, turned, dtype=images.dtype).reshape(images.shape)
