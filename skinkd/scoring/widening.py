"""Wider intervals for means over classes, of which some have few lesions."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from skinkd.scoring.predictions import Ints


@dataclass(frozen=True)
class Widening:
    """How much wider the interval of a mean over classes is than the percentile interval of its replicates.

    A mean of n draws gets the expanded percentile interval (Hesterberg 2015, The American Statistician 69:371,
    section 4.3). It corrects two errors: the replicates have only (n − 1)/n of the variance to estimate, and
    their quantiles are normal where those of Student's t with n − 1 degrees of freedom are right. For a mean over
    classes with n_k lesions each we use Welch and Satterthwaite's degrees of freedom and assume the same spread
    within every class (ours): factor² = Σ 1/(n_k − 1) / Σ 1/n_k and df = (Σ 1/n_k)² / Σ 1/(n_k² (n_k − 1)). A
    class with a single lesion has no spread to measure and does not count. With many lesions in each class the
    widening disappears.

    Attributes:
        factor: factor on the standard error, at least 1.
        df: degrees of freedom, infinite if no class has two lesions.
    """

    factor: float
    df: float

    @classmethod
    def of(cls, tables: Iterable[tuple[Ints, Ints]]) -> "Widening":
        """Return the widening for one or more tables of images, given as (lesion, label) numbers; a lesion counts once."""
        pairs = np.unique(np.hstack([np.stack(table) for table in tables]), axis=1)
        n = np.bincount(pairs[1]).astype(np.float64)
        n = n[n > 1]
        if not len(n):
            return cls(1.0, np.inf)
        df = (1 / n).sum() ** 2 / (1 / (n**2 * (n - 1))).sum()
        return cls(float(np.sqrt((1 / (n - 1)).sum() / (1 / n).sum())), float(df))

    def tail(self, level: float) -> float:
        """Return the share of replicates to leave out at each end of an interval of confidence ``level``."""
        return float(norm.sf(self.factor * t.isf((1 - level) / 2, self.df)))

    def p(self, tail: float) -> float:
        """Return the two-sided p-value of a share of replicates: below 1 − level if the share is below ``tail(level)``."""
        return float(min(1.0, 2 * t.sf(norm.isf(min(tail, 0.5)) / self.factor, self.df)))
