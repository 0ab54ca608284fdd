"""Training texts that a compression method looks at before it acts: for scales, importances, second moments."""

import torch

from effnlp.data.encodings import Batch
from effnlp.data.prepare import Prepared

BATCH_SIZE = 32
"""Texts of a batch of calibration."""


def calibration_batches(data: Prepared, count: int, seed: int) -> list[Batch]:
    """``count`` training texts with their labels, drawn without replacement, in batches of 32; all, if there are fewer.

    Texts without a label are left out.

    Raises:
        ValueError: If texts are wanted and there are none.
    """
    if count == 0:
        return []
    train = data.examples["train"]
    if len(train) == 0:
        raise ValueError(f"calibration needs texts: {count} are wanted, and the training split is empty")
    labelled = torch.from_numpy(train.labelled())
    drawn = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(int(seed)))[:count]
    return [train.batch(part.tolist()) for part in labelled[drawn].split(BATCH_SIZE)]
