from torch import nn

from effnlp.data.encodings import Encodings
from effnlp.evaluation.scenarios.fixed_batch import fixed_batch


class Sizes(nn.Module):
    """Notes the shapes of what it is asked; each padded token costs 2·4·2 FLOPs."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 2)
        self.shapes = []

    def forward(self, batch):
        self.shapes.append(tuple(batch["input_ids"].shape))
        return self.head(self.table(batch["input_ids"])).mean(1)


def test_requests_are_full_batches_padded_to_their_longest_text():
    model = Sizes()
    encodings = Encodings.from_lists([[1], [1, 2, 3], [4, 5], [1, 2], [7]], pad_id=0)
    measured = fixed_batch(model, encodings, batch_size=2, requests=4, warmup=0, repeats=1, threads=1)
    assert model.shapes[-4:] == [(2, 3), (2, 2), (2, 3), (2, 2)]
    assert measured.values["flops"] == (2 * 3 + 2 * 2 + 1) * 16 / 5
    assert "latency_seconds_p95" in measured.absent
