import pytest
import torch

from effnlp.compression.pruning.groups import cut
from effnlp.model.parts import heads_of
from effnlp.reproduce.analyses import heads
from effnlp.reproduce.analyses.kept import Kept
from effnlp.reproduce.cells import Run


@pytest.fixture
def run(run_tiny):
    """A model with two layers of two heads that has learnt a little."""
    record = run_tiny("model=backbone", "model.max_length=16", "keep_model=true")
    return Run("whole", "3", record, record.folder)


def test_accuracies_by_importance_and_at_random_are_of_models_without_these_heads(run):
    table = heads.orders({"whole": [run]}, "whole", [0.0, 0.25, 0.5], random_orders=2, calibration_texts=20)
    whole = 100 * run.record.values["val/accuracy"]
    rows = ["0 %", "25 %", "50 %"]
    assert list(table) == [
        *[f"{name}, {row}" for row in rows for name in ("by importance", "at random")],
        "by importance",
        "at random",
    ]
    for name in ("by importance", "at random"):
        assert table[f"{name}, 0 %"]["left"]["3"] == pytest.approx(whole)
        left = [table[f"{name}, {row}"]["left"]["3"] for row in rows]
        assert table[name]["area"]["3"] == pytest.approx(sum(left) / 3)
    assert table["at random"]["best area"]["3"] >= table["at random"]["area"]["3"]

    # The first random order of the seed, cut out of the model.
    kept = Kept.of(run)
    parts = heads_of(kept.model)
    scores = heads.random_scores(parts, torch.Generator().manual_seed(3))
    masks = heads.choose(scores, 0.5, "global")
    cut(kept.model, parts, masks)
    one = heads.orders({"whole": [run]}, "whole", [0.5], random_orders=1, calibration_texts=20)
    cut_accuracy = 100 * heads.accuracy(kept.model, kept.batches("validation"))
    assert one["at random, 50 %"]["left"]["3"] == pytest.approx(cut_accuracy)


def test_a_level_that_removes_a_whole_layer_is_refused(run):
    with pytest.raises(ValueError, match=r"sparsity 0.9 would remove all of a layer"):
        heads.orders({"whole": [run]}, "whole", [0.9])
