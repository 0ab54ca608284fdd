"""An additive model of categorical factors, fitted by least squares: what each factor explains, what each level does.

The share of a factor is epsilon squared: the part of the variance that only it explains, less what a factor without
any effect would explain by chance. What several factors explain jointly, because the search tried them together, is
nobody's share. Nothing is assumed about interactions: they are in the residual.

Source: Kelley (1935), https://doi.org/10.1073/pnas.21.9.554 (epsilon squared); Holm (1979),
https://www.jstor.org/stable/4615733 (many tests at once).

Factors that belong together, a choice and its settings, can have one share: what they explain and nothing else does.

Legend: N observations, P columns of the design, F factors.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc, stdtrit

ROUNDING = 1e-10
"""Part of the variance below which a residual is rounding."""


@dataclass(frozen=True)
class Design:
    """Factors as columns: an intercept, then one column of 0 and 1 for each level beside the factor's first.

    Attributes:
        matrix: (N, P).
        columns: P entries of (factor, level); the intercept is ("", "").
        references: Factor to the level that the others are compared with.
        counts: (factor, level) to how many observations have it.
    """

    matrix: np.ndarray
    columns: list[tuple[str, str]]
    references: dict[str, str]
    counts: dict[tuple[str, str], int]

    @classmethod
    def of(cls, factors: Mapping[str, Sequence[str]], references: Mapping[str, str]) -> "Design":
        """``factors`` maps a name to the N levels observed; ``references`` to the one that stands for zero."""
        rows = len(next(iter(factors.values())))
        columns, parts = [("", "")], [np.ones(rows)]
        counts = {}
        for name, levels in factors.items():
            for level, many in sorted(Counter(levels).items()):
                counts[name, level] = many
                if level != references[name]:
                    columns.append((name, level))
                    parts.append(np.array([float(one == level) for one in levels]))
        return cls(np.stack(parts, axis=1), columns, dict(references), counts)

    def without(self, factors: Collection[str]) -> np.ndarray:
        """The matrix without the columns of ``factors``."""
        return self.matrix[:, [name not in factors for name, _ in self.columns]]

    @property
    def degrees_left(self) -> int:
        """Observations less the rank of the design."""
        return len(self.matrix) - int(np.linalg.matrix_rank(self.matrix))


@dataclass(frozen=True)
class Share:
    """What a factor alone explains, or some that belong together.

    Attributes:
        share: Epsilon squared; noise can make it slightly negative.
        p: Of the F test that it explains nothing; 1 where its levels cannot be told from those of the others.
    """

    share: float
    p: float


@dataclass(frozen=True)
class Level:
    """What a level adds in comparison with its factor's reference, with a t-interval."""

    factor: str
    level: str
    reference: str
    n: int
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    Attributes:
        explained: Share of the variance that all factors explain together, adjusted for their number.
        shares: Factor, or name of factors that belong together, to its own.
        levels: Those that can be estimated.
    """

    explained: float
    shares: dict[str, Share]
    levels: list[Level]


def fit(
    design: Design,
    values: np.ndarray,
    confidence: float,
    together: Mapping[str, Collection[str]] | None = None,
) -> Fit:
    """Fit (N,) ``values``, which are not all equal.

    Args:
        confidence: Of the intervals of the levels.
        together: Name to the factors that have a share together; None: each has its own.

    Raises:
        ValueError: If no degree of freedom is left, or the values are constant.
    """
    left = design.degrees_left
    if left < 1:
        raise ValueError(f"{len(values)} observations cannot tell the {len(design.columns)} columns apart")
    total = float(np.sum((values - values.mean()) ** 2))
    if total <= (ROUNDING * np.abs(values).max()) ** 2:
        raise ValueError("the values are constant, nothing can explain them")
    inverse = np.linalg.pinv(design.matrix)
    beta = inverse @ values
    residual = _residual(design.matrix, values, total)
    noise = residual / left
    shares = {}
    for name, factors in (together or {factor: [factor] for factor in design.references}).items():
        reduced = design.without(factors)
        degrees = len(values) - int(np.linalg.matrix_rank(reduced)) - left
        added = _residual(reduced, values, total) - residual
        shares[name] = Share((added - degrees * noise) / total, _p_of(added, degrees, noise, left, total))
    return Fit(
        1 - noise / (total / (len(values) - 1)),
        shares,
        _levels(design, inverse, beta, noise, left, confidence),
    )


def _residual(matrix: np.ndarray, values: np.ndarray, total: float) -> float:
    """Sum of squares that ``matrix`` leaves; rounding is zero."""
    solution = np.linalg.lstsq(matrix, values, rcond=None)[0]
    left = float(np.sum((values - matrix @ solution) ** 2))
    return 0.0 if left < ROUNDING * total else left


def _p_of(added: float, degrees: int, noise: float, left: int, total: float) -> float:
    if degrees == 0 or added <= ROUNDING * total:
        return 1.0
    return float(fdtrc(degrees, left, added / degrees / noise)) if noise > 0 else 0.0


def _levels(
    design: Design, inverse: np.ndarray, beta: np.ndarray, noise: float, left: int, confidence: float
) -> list[Level]:
    # A level can be estimated if its unit vector lies in the row space of the design.
    projection = inverse @ design.matrix
    half_widths = stdtrit(left, (1 + confidence) / 2) * np.sqrt(noise * np.sum(inverse**2, axis=1))
    return [
        Level(
            factor,
            level,
            design.references[factor],
            design.counts[factor, level],
            float(beta[index]),
            float(beta[index] - half_widths[index]),
            float(beta[index] + half_widths[index]),
        )
        for index, (factor, level) in enumerate(design.columns)
        if factor and np.allclose(projection[index], np.eye(len(beta))[index], atol=1e-6)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p adjusted for their number, so that the chance of any false discovery is bounded."""
    order = np.argsort(p_values, kind="stable")
    stepped = [min(1.0, (len(order) - place) * p_values[index]) for place, index in enumerate(order)]
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(stepped) if stepped else []
    return [float(p) for p in adjusted]
