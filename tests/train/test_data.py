"""What training takes as data."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.errors import LoadError
from lora_graph.train.data import Arrays, Batch, data_of
from tests.train.models import Array, adapted, copied, same_bits


@pytest.fixture
def arrays(rng: np.random.Generator) -> tuple[Array, Array]:
    return rng.standard_normal((20, 6)), rng.standard_normal((20, 4))


def listed(data: Any, **options: Any) -> list[Batch]:
    """The batches of the first epoch."""
    return list(data_of(data, **{"batch_size": 8, "epochs": 2, **options}).epoch(0, 0))


def test_every_sample_comes_once_an_epoch_with_its_target(rng: np.random.Generator) -> None:
    x = rng.standard_normal((20, 3))
    source = Arrays(Batch(x, x[:, :1] * 2), 8)
    assert len(source) == 3
    epochs = [list(source.epoch(7, number)) for number in range(3)]
    for epoch in epochs:
        assert [len(part) for part, *_ in epoch] == [8, 8, 4]
        together = np.concatenate([part for part, *_ in epoch])
        assert (np.concatenate([part for _, part, *_ in epoch]) == together[:, :1] * 2).all()
        assert sorted(map(tuple, together)) == sorted(map(tuple, x))
    assert len({np.concatenate([part for part, *_ in epoch]).tobytes() for epoch in [*epochs, [Batch(x, x)]]}) == 4
    again = list(source.epoch(7, 1))
    assert all((a == b).all() for (a, *_), (b, *_) in zip(again, epochs[1], strict=True))
    other = list(source.epoch(8, 1))
    assert not all((a == b).all() for (a, *_), (b, *_) in zip(again, other, strict=True))


def test_without_shuffling_the_order_stays(arrays: tuple[Array, Array]) -> None:
    parts = listed(arrays, shuffle=False)
    assert (np.concatenate([x for x, *_ in parts]) == arrays[0]).all()
    assert (np.concatenate([t for _, t, *_ in parts]) == arrays[1]).all()


def test_a_batch_may_be_larger_than_the_data(arrays: tuple[Array, Array]) -> None:
    ((x, *_),) = listed(arrays, batch_size=1000)
    assert len(x) == 20


@pytest.mark.parametrize("names", [("inputs", "targets"), ("x", "y"), ("x", "t")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_file_is_its_arrays(
    names: tuple[str, str], save: Any, arrays: tuple[Array, Array], tmp_path: Path
) -> None:
    path = tmp_path / "data.npz"
    save(path, **dict(zip(names, arrays, strict=True)), other=np.zeros(3))
    first, second, third = adapted(), adapted(), adapted()
    lg.fit(first, arrays, epochs=2, batch_size=8)
    lg.fit(second, path, epochs=2, batch_size=8)
    lg.fit(third, str(path), epochs=2, batch_size=8)
    assert same_bits(first.state, second.state)
    assert same_bits(first.state, third.state)


def test_lists_are_arrays_and_batches_come_as_they_are(arrays: tuple[Array, Array]) -> None:
    x, t = arrays
    first, second, third = adapted(), adapted(), adapted()
    lg.fit(first, [(x[:5], t[:5]), (x[5:], t[5:])])
    lg.fit(second, [[x[:5].tolist(), t[:5].tolist()], [x[5:].tolist(), t[5:].tolist()]])
    lg.fit(third, ((x[i], t[i]) for i in (slice(0, 5), slice(5, 20))))
    assert same_bits(first.state, second.state)
    assert same_bits(first.state, third.state)
    lg.fit(first, (x.tolist(), t.tolist()), shuffle=False, batch_size=20)
    lg.fit(second, [(x, t)])
    assert same_bits(first.state, second.state)


def test_a_list_may_be_walked_in_every_epoch_and_an_iterator_in_one(arrays: tuple[Array, Array]) -> None:
    assert lg.fit(adapted(), [arrays, arrays], epochs=3).steps == 6
    assert lg.fit(adapted(), iter([arrays, arrays]), epochs=1).steps == 2
    with pytest.raises(ValueError, match="data is an iterator that ends after one epoch: pass a list, or epochs=1"):
        lg.fit(adapted(), iter([arrays]), epochs=2)


X, T = np.zeros((4, 6)), np.zeros((4, 4))
BAD: list[tuple[Any, type[Exception], str]] = [
    ((X, T[:3]), ValueError, r"one target per input, got inputs \(4, 6\) and targets \(3, 4\)"),
    ((X, np.zeros(())), ValueError, "one target per input"),
    ((X[:0], T[:0]), ValueError, "at least one sample"),
    ([], ValueError, "data gave no batch"),
    (iter([]), ValueError, "data gave no batch"),
    (3, TypeError, "data must be"),
    (None, TypeError, "data must be"),
    ({"inputs": X, "targets": T}, TypeError, r"data must be .*, got a dict$"),
    ([X], TypeError, r"a batch must be \(inputs, targets\) or \(inputs, targets, weights\), got a ndarray"),
    ([(X, T, T, T)], TypeError, r"a batch must be .*, got 4 things"),
    ((X, T, T[:3]), ValueError, r"one weight per target, got weights \(3, 4\) and targets \(4, 4\)"),
    ((X, T, np.array([1, 0, -2, 1])), ValueError, "weights must be finite and at least 0, got -2"),
    ((X, T, np.full(4, np.nan)), ValueError, "weights must be finite and at least 0, got nan"),
    ((X, T, np.ones((4, 3))), ValueError, r"mse: weights must have the first axes of the targets \[batch, 4\], got"),
    ((X, T, np.ones((4, 4, 1))), ValueError, "mse: weights must have the first axes of the targets"),
    ((X, T, np.full(4, "a")), TypeError, "weights must be an array of numbers"),
    ((X, np.full((4, 4), "a")), TypeError, "targets must be an array of numbers"),
    ((X, np.full((4, 4), None)), TypeError, "targets must be an array of numbers"),
    ((X[:, :5], T), ValueError, r"inputs must end in \[6\], got shape \(4, 5\)"),
]


@pytest.mark.parametrize(("data", "kind", "message"), BAD)
def test_what_is_no_data(data: Any, kind: type[Exception], message: str) -> None:
    model = adapted().eval()
    before = copied(model)
    with pytest.raises(kind, match=message):
        lg.fit(model, data)
    assert same_bits(model.state, before)
    assert not model.is_training


class Trap:
    """Unpickling one of these would be noticed."""

    sprung = False

    def __setstate__(self, state: Any) -> None:
        Trap.sprung = True


def test_files_that_cannot_be_trusted(arrays: tuple[Array, Array], tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    np.savez_compressed(good, x=arrays[0], y=arrays[1])
    content = good.read_bytes()
    middle = len(content) // 3
    files = {
        "truncated.npz": content[:-40],
        "half.npz": content[:middle],
        "damaged.npz": content[:middle] + bytes(64) + content[middle + 64 :],
        "empty.npz": b"",
        "text.npz": b"x,y\n1,2\n",
        "pickled.npz": pickle.dumps({"x": Trap(), "y": Trap()}),
    }
    for name, written in files.items():
        (tmp_path / name).write_bytes(written)
        with pytest.raises(LoadError, match=name):
            lg.fit(adapted(), tmp_path / name)
    np.savez(tmp_path / "objects.npz", x=np.asarray([Trap()]), y=np.asarray([Trap()]))
    np.savez(tmp_path / "names.npz", a=arrays[0], b=arrays[1])
    np.save(tmp_path / "one.npy", arrays[0])
    with zipfile.ZipFile(tmp_path / "archive.npz", "w") as archive:
        archive.writestr("x", "1")
        archive.writestr("y.npy", "2")
    for name, message in {
        "objects.npz": "pickle",
        "names.npz": r"must hold the arrays 'inputs' and 'targets' .*; it holds a, b",
        "one.npy": "one.npy: not an .npz file, or a damaged one",
        "archive.npz": "it holds x, y",
        "missing.npz": "missing.npz: no such file$",
    }.items():
        with pytest.raises(LoadError, match=message):
            lg.fit(adapted(), tmp_path / name)
    with pytest.raises(LoadError):
        lg.fit(adapted(), tmp_path)
    assert not Trap.sprung
