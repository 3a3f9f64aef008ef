"""Dimensions of tensors: an int, a name, or a normalised integer expression of names.

An expression is kept as a polynomial with integer coefficients, so two expressions that are equal as polynomials are
the same object in every sense that matters: ``dim("2*h+h")`` equals ``dim("h*3")``. Floor division, ``min`` and ``max``
that cannot be carried out are atoms of the polynomial.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import mul


@dataclass(frozen=True, slots=True)
class Call:
    """An integer function of two dimensions that no polynomial expresses."""

    function: str  # "//", "min" or "max"
    left: Dim
    right: Dim

    def __str__(self) -> str:
        if self.function == "//":
            return f"{_parenthesised(self.left)}//{_parenthesised(self.right)}"
        return f"{self.function}({self.left},{self.right})"


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Atom = str | Call
Monomial = tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class SymbolicDim:
    """A sum of integer multiples of products of atoms; build one with :func:`dim` and arithmetic."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        if not isinstance(other, int | SymbolicDim):
            return NotImplemented
        return _polynomial([*_terms(self), *_terms(other)])

    def __mul__(self, other: Dim) -> Dim:
        if not isinstance(other, int | SymbolicDim):
            return NotImplemented
        return _polynomial((tuple(sorted(a + b, key=str)), m * n) for a, m in _terms(self) for b, n in _terms(other))

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: int) -> Dim:
        return -self + other

    def __floordiv__(self, other: Dim) -> Dim:
        return divide(self, other)

    def __rfloordiv__(self, other: int) -> Dim:
        return divide(other, self)

    __radd__ = __add__
    __rmul__ = __mul__

    def __str__(self) -> str:
        text = ""
        for monomial, coefficient in sorted(self.terms, key=lambda term: (not term[0], -len(term[0]), str(term[0]))):
            factors = [_atom_text(atom) for atom in monomial]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            text += ("-" if coefficient < 0 else "+" if text else "") + "*".join(factors)
        return text

    def __repr__(self) -> str:
        return f"dim({str(self)!r})"


Dim = int | SymbolicDim
Shape = tuple[Dim, ...]


def dim(spec: int | str | SymbolicDim) -> Dim:
    """The dimension that ``spec`` writes: an int, a name, or an expression such as ``"(h-1)//2+1"``.

    Raises TypeError for a bool or another kind of thing, ValueError for a negative int or an unreadable expression.
    """
    if isinstance(spec, SymbolicDim):
        return spec
    if isinstance(spec, str):
        return _parse(spec)
    if isinstance(spec, bool) or not hasattr(spec, "__index__"):
        raise TypeError(f"a dimension is an int or a name, not {spec!r}")
    if spec < 0:
        raise ValueError(f"a dimension cannot be negative, got {spec}")
    return spec.__index__()


def shape_of(spec: Iterable[int | str | SymbolicDim]) -> Shape:
    if isinstance(spec, str) or not isinstance(spec, Iterable):
        raise TypeError(f"a shape must be a sequence of ints and names, got {spec!r}")
    return tuple(dim(item) for item in spec)


def evaluate(value: Dim, binding: Mapping[str, int]) -> int:
    """The int that ``value`` is when every name in it has the size that ``binding`` gives it (KeyError without)."""
    if isinstance(value, int):
        return value
    total = 0
    for monomial, coefficient in value.terms:
        total += reduce(mul, (_evaluate_atom(atom, binding) for atom in monomial), coefficient)
    return total


def sizes(shape: Iterable[Dim], binding: Mapping[str, int]) -> tuple[int, ...]:
    """The ints that the dimensions of ``shape`` are; see :func:`evaluate`."""
    return tuple(evaluate(dimension, binding) for dimension in shape)


def substitute(value: Dim, binding: Mapping[str, Dim]) -> Dim:
    """``value`` with names replaced by dimensions; names outside ``binding`` stay."""
    if isinstance(value, int):
        return value
    total: Dim = 0
    for monomial, coefficient in value.terms:
        product: Dim = coefficient
        for atom in monomial:
            product = product * _substitute_atom(atom, binding)
        total = total + product
    return total


def names(value: Dim) -> Iterator[str]:
    """Every name in ``value``, with repetitions."""
    if isinstance(value, SymbolicDim):
        for monomial, _ in value.terms:
            for atom in monomial:
                if isinstance(atom, str):
                    yield atom
                else:
                    yield from names(atom.left)
                    yield from names(atom.right)


def plain_name(value: Dim) -> str | None:
    """The name that ``value`` is, or None if it is an int or an expression."""
    match value:
        case SymbolicDim(terms=(((str() as name,), 1),)):
            return name
    return None


def fits(shape: Sequence[Dim], sizes: Sequence[int], binding: dict[str, int]) -> bool:
    """Whether an array of ``sizes`` can have ``shape``; ``binding`` holds the sizes of names, and takes up new ones.

    Expressions of names are left unchecked.
    """
    if len(shape) != len(sizes):
        return False
    for dimension, size in zip(shape, sizes, strict=True):
        name = plain_name(dimension)
        wanted = dimension if name is None else binding.setdefault(name, size)
        if isinstance(wanted, int) and wanted != size:
            return False
    return True


def product(shape: Iterable[Dim]) -> Dim:
    return reduce(mul, shape, 1)


def divide(left: Dim, right: Dim) -> Dim:
    """Floor division, carried out for the terms that it is exact for; ZeroDivisionError if ``right`` is 0."""
    if right == 0:
        raise ZeroDivisionError(f"the dimension {left} cannot be divided by 0")
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    quotient = exact_quotient(left, right)
    if quotient is not None:
        return quotient
    whole = [(m, n // right) for m, n in _terms(left) if m and n % right == 0] if isinstance(right, int) else []
    if whole:
        carried = _polynomial(whole)
        return carried + divide(left - carried * right, right)
    return _polynomial([((Call("//", left, right),), 1)])


def exact_quotient(left: Dim, right: Dim) -> Dim | None:
    """``left / right`` where ``right`` is a single term that divides every term of ``left``, else None."""
    divisor = _terms(right)
    if left == right:
        return 1
    if len(divisor) != 1:
        return None
    ((atoms, factor),) = divisor
    terms = []
    for monomial, coefficient in _terms(left):
        rest = list(monomial)
        for atom in atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coefficient % factor:
            return None
        terms.append((tuple(rest), coefficient // factor))
    return _polynomial(terms)


def minimum(left: Dim, right: Dim) -> Dim:
    return _extremum("min", left, right)


def maximum(left: Dim, right: Dim) -> Dim:
    return _extremum("max", left, right)


def is_size(value: Dim) -> bool:
    """Whether ``value`` can be shown to be at least 0, given that every name stands for a size."""
    if isinstance(value, int):
        return value >= 0
    return all(factor > 0 and all(map(_is_size_atom, monomial)) for monomial, factor in value.terms)


def _is_size_atom(atom: Atom) -> bool:
    if isinstance(atom, str):
        return True
    known = is_size(atom.left), is_size(atom.right)
    return any(known) if atom.function == "max" else all(known)


def _extremum(function: str, left: Dim, right: Dim) -> Dim:
    if is_size(left - right):
        return right if function == "min" else left
    if is_size(right - left):
        return left if function == "min" else right
    first, second = sorted((left, right), key=str)
    return _polynomial([((Call(function, first, second),), 1)])


def _terms(value: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(value, SymbolicDim):
        return value.terms
    return (((), value),) if value else ()


def _polynomial(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    kept = tuple(sorted(((m, c) for m, c in total.items() if c), key=str))
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return SymbolicDim(kept)


def _evaluate_atom(atom: Atom, binding: Mapping[str, int]) -> int:
    if isinstance(atom, str):
        return binding[atom]
    left, right = evaluate(atom.left, binding), evaluate(atom.right, binding)
    return left // right if atom.function == "//" else min(left, right) if atom.function == "min" else max(left, right)


def _substitute_atom(atom: Atom, binding: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, str):
        return binding.get(atom, SymbolicDim((((atom,), 1),)))
    left, right = substitute(atom.left, binding), substitute(atom.right, binding)
    return divide(left, right) if atom.function == "//" else _extremum(atom.function, left, right)


def _atom_text(atom: Atom) -> str:
    if isinstance(atom, str):
        return atom if _IDENTIFIER.fullmatch(atom) and not keyword.iskeyword(atom) else repr(atom)
    return f"({atom})" if atom.function == "//" else str(atom)


def _parenthesised(value: Dim) -> str:
    return str(value) if isinstance(value, int) or plain_name(value) else f"({value})"


@lru_cache(maxsize=4096)
def _parse(text: str) -> Dim:
    try:
        return _read(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"cannot read the dimension {text!r}: write a name or an integer expression of names"
        ) from error


def _read(node: ast.expr) -> Dim:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.Constant(value=str() as name) | ast.Name(id=name):
            return SymbolicDim((((name,), 1),))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_read(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _read(left) + _read(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _read(left) - _read(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _read(left) * _read(right)
        case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
            return divide(_read(left), _read(right))
        case ast.Call(func=ast.Name(id="min" | "max" as function), args=[left, right]):
            return _extremum(function, _read(left), _read(right))
    raise ValueError(ast.unparse(node))
