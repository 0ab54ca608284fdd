from pathlib import Path

import numpy as np
import pytest
import torch

from effnlp.record import Record
from effnlp.reproduce.analyses.kept import Kept
from effnlp.reproduce.cells import Run


def test_a_kept_model_tells_the_validation_texts_as_its_record_says(run_tiny):
    record = run_tiny("keep_model=true", "trainer.epochs=4")
    kept = Kept.of(Run("row", "0", record, record.folder))
    batches = list(kept.batches("validation"))
    with torch.inference_mode():
        right = [(kept.model(batch).argmax(-1) == batch["labels"]).numpy() for batch in batches]
    assert np.concatenate(right).mean() == pytest.approx(record.values["val/accuracy"])
    assert record.values["val/accuracy"] > 0
    assert sum(len(batch["labels"]) for batch in kept.batches("train", 40)) == 40
    assert [len(batch["labels"]) for batch in kept.batches("train", 7, batch_size=3)] == [3, 3, 1]
    as_they_come = torch.cat([batch["labels"] for batch in kept.batches("train", 40, by_length=False)])
    assert as_they_come.tolist() == kept.task.splits["train"]["label"][:40].tolist()


def test_a_run_that_kept_no_model_is_named_with_what_would_keep_it():
    with pytest.raises(
        ValueError, match=r"nowhere has no deployed\.pt: its row must be run with keep_model=true"
    ):
        Kept.of(Run("row", "0", Record("completed", {}), Path("nowhere")))
