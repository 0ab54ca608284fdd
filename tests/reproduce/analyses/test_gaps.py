from pathlib import Path

import pytest

from effnlp.record import Record
from effnlp.reproduce.analyses.gaps import gaps
from effnlp.reproduce.cells import Run


def runs(**scores):
    """Row to a run for each score, by its seed."""
    return {
        row: [Run(row, str(seed), Record("completed", {}, values={"val/accuracy": score}), Path())
              for seed, score in enumerate(of_row)]
        for row, of_row in scores.items()
    }  # fmt: skip


def test_a_gap_is_what_the_row_behind_lacks_in_each_seed_that_both_have():
    given = runs(full=[0.9, 0.8, 0.7], prompt=[0.6, 0.7])
    table = gaps(given, {"tiny": ["prompt", "full"]}, "val/accuracy", "gap", scale=100)
    assert table["tiny"]["gap"] == {"0": pytest.approx(30), "1": pytest.approx(10)}


def test_a_row_without_runs_and_rows_without_a_common_seed_are_named():
    given = runs(full=[0.9], prompt=[])
    with pytest.raises(ValueError, match="no row 'prefix' with runs; there is full, prompt"):
        gaps(given, {"tiny": ["prefix", "full"]}, "val/accuracy", "gap")
    with pytest.raises(ValueError, match="prompt and full share no seed"):
        gaps(given, {"tiny": ["prompt", "full"]}, "val/accuracy", "gap")
