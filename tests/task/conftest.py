"""What tests of tasks share: small tables of texts."""

import random
from collections.abc import Callable

import pandas as pd
import pytest


@pytest.fixture
def make_rows() -> Callable[..., pd.DataFrame]:
    """Distinct texts with labels; equal arguments give equal rows."""

    def make(rows: int = 200, labels: tuple = ("bad", "good"), seed: int = 0) -> pd.DataFrame:
        rng = random.Random(seed)
        return pd.DataFrame(
            {
                "text": [f"text {seed} {i} of {rng.randrange(10**9)}" for i in range(rows)],
                "label": [labels[i % len(labels)] for i in range(rows)],
            }
        )

    return make
