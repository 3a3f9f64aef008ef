"""Checks of arguments: wrong kinds are TypeErrors, bad values ValueErrors, and both name the argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from inspect import Parameter, signature
from typing import Any

import numpy as np
import numpy.typing as npt

Seed = None | int | np.random.Generator


def integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """``value`` as an int within ``low..high``."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if (low is not None and value < low) or (high is not None and value > high):
        allowed = f"in {low}..{high}" if high is not None and low is not None else f"at least {low}"
        raise ValueError(f"{name} must be {allowed}, got {value}")
    return int(value)


def number(name: str, value: Any) -> float:
    """``value`` as a finite float."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        real = float(value)
    except OverflowError:
        real = math.inf
    if not math.isfinite(real):
        raise ValueError(f"{name} must be finite, got {value}")
    return real


def at_least_zero(name: str, value: Any) -> float:
    if number(name, value) < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return float(value)


def positive(name: str, value: Any) -> float:
    if number(name, value) <= 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return float(value)


def below_one(name: str, value: Any) -> float:
    """``value`` as a share that is not all: a number in [0, 1)."""
    if not 0 <= number(name, value) < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")
    return float(value)


def scale(name: str, value: Any, default: float) -> float:
    """An alpha: ``default`` where it is negative; 0, NaN and infinity are errors."""
    checked = number(name, value)
    if checked == 0:
        raise ValueError(f"{name} must not be 0: the adapter would change nothing (negative means {default:g})")
    return default if checked < 0 else checked


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a bool, got {value!r}")
    return bool(value)


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def options(what: str, function: Callable[..., Any], given: Collection[str], known: Collection[str] = ()) -> None:
    """TypeError unless ``given`` are keywords of ``function``, those included that it cannot do without.

    Its first two parameters and those that are ``known`` are no options.
    """
    parameters = list(signature(function).parameters.values())[2:]
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return
    own = {parameter.name: parameter for parameter in parameters if parameter.name not in known}
    for name in given:
        if name not in own:
            raise TypeError(f"{what} has no option {name!r}; it has {', '.join(own) or 'none'}")
    for name, parameter in own.items():
        if parameter.default is Parameter.empty and name not in given:
            raise TypeError(f"{what} needs the option {name!r}")


def float_dtype(value: npt.DTypeLike) -> np.dtype[Any]:
    """float32 or float64."""
    try:
        dtype = None if value is None else np.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None:
        raise TypeError(f"dtype must be float32 or float64, got {value!r}")
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    return dtype


def generator(rng: Seed) -> np.random.Generator:
    """What ``rng=`` means: None draws a fresh seed, an int is a seed, a Generator is used as it is."""
    if rng is not None and not isinstance(rng, np.random.Generator):
        if isinstance(rng, bool | np.bool_) or not isinstance(rng, int | np.integer):
            raise TypeError(f"rng must be None, an int or a numpy.random.Generator, got {rng!r}")
        integer("rng", rng, 0)
    return np.random.default_rng(rng)


def numeric(name: str, value: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """``value`` as an array of ``dtype``; TypeError for anything that is not numbers, ValueError for ragged lists."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not an array: {error}") from error
    if dtype.kind == "b":
        if array.dtype.kind != "b":
            raise TypeError(f"{name} must hold bools, got {array.dtype}")
        return array
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} must be an array of numbers, got {type(value).__name__} of {array.dtype}")
    if dtype.kind in "iu" and array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers ({dtype}), got {array.dtype}")
    cast = array.astype(dtype, copy=False)
    if dtype.kind in "iu" and cast is not array and not np.array_equal(cast, array):
        raise ValueError(f"{name} must hold integers that fit {dtype}, got {array.min()} to {array.max()}")
    return cast
