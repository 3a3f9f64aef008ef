"""The digits against what the source says about them."""

from importlib import resources

import numpy as np
import pytest

from lora_graph.data import changed_task, digits, split

FIRST_IMAGE = """
     0  0  5 13  9  1  0  0
     0  0 13 15 10 15  5  0
     0  3 15  2  0 11  8  0
     0  4 12  0  0  8  8  0
     0  5  8  0  0  9  8  0
     0  4 11  0  1 12  7  0
     0  2 14  5 10 12  0  0
     0  0  6 13 10  0  0  0
"""


def test_digits_are_those_of_the_source():
    images, labels = digits()
    assert images.shape == (1797, 64)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert (images.min(), images.max()) == (0, 1)
    # class counts as published in optdigits.names
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (images[0] * 16).tolist() == [float(pixel) for pixel in FIRST_IMAGE.split()]
    assert labels[:10].tolist() == list(range(10))


def test_data_is_small_and_its_licence_stands_beside_it():
    folder = resources.files("lora_graph.data")
    assert len(folder.joinpath("digits.npz").read_bytes()) < 100_000
    notice = folder.joinpath("NOTICE.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in notice
    assert "10.24432/C50P49" in notice


def test_split_is_a_partition_fixed_by_its_seed():
    train, held_out = split(seed=3)
    assert (len(train.labels), len(held_out.labels)) == (1437, 360)
    both = np.concatenate([np.c_[part.images, part.labels] for part in (train, held_out)])
    everything = np.c_[digits()]
    assert np.array_equal(both[np.lexsort(both.T)], everything[np.lexsort(everything.T)])
    assert np.array_equal(split(seed=3).train.images, train.images)
    assert not np.array_equal(split(seed=4).train.images, train.images)


def test_changed_task_turns_left_and_inverts():
    image = np.zeros((8, 8), np.float32)
    image[0, 7] = 0.25  # top right goes to top left
    image[7, 7] = 1.0  # bottom right goes to top right
    expected = np.ones((8, 8), np.float32)
    expected[0, 0] = 0.75
    expected[0, 7] = 0.0
    changed = changed_task(image.reshape(1, 64))
    assert changed.dtype == np.float32
    assert np.array_equal(changed.reshape(8, 8), expected)


def test_changed_task_four_times_is_the_original():
    images = changed = digits().images[:50]
    for _ in range(4):
        changed = changed_task(changed)
    assert np.array_equal(changed, images)


def test_changed_task_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"images: expected shape \[n, 64\], got \[2, 8, 8\]"):
        changed_task(np.zeros((2, 8, 8), np.float32))
