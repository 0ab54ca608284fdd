import pytest
from torch import nn

from effnlp.data.encodings import Encodings
from effnlp.evaluation.scenarios.single_stream import single_stream


class Sizes(nn.Module):
    """Notes the shapes of what it is asked."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 2)
        self.shapes = []

    def forward(self, batch):
        self.shapes.append(tuple(batch["input_ids"].shape))
        return self.head(self.table(batch["input_ids"]).mean(1))


def test_every_request_is_one_text_without_padding():
    model = Sizes()
    encodings = Encodings.from_lists([[1], [1, 2, 3], [4, 5]], pad_id=0)
    measured = single_stream(model, encodings, requests=100, warmup=1, repeats=1, threads=1)
    assert set(model.shapes) == {(1, 1), (1, 2), (1, 3)}
    assert measured.values["flops"] == 2 * 4 * 2
    assert measured.values["examples_per_second"] > 0
    assert measured.values["latency_seconds_p99"] >= measured.values["latency_seconds_p50"] > 0


def test_throughput_of_single_requests_is_the_inverse_of_their_mean_latency():
    encodings = Encodings.from_lists([[1, 2]] * 3, pad_id=0)
    measured = single_stream(Sizes(), encodings, requests=100, warmup=5, repeats=3, threads=1)
    assert 1 / measured.values["examples_per_second"] == pytest.approx(
        measured.values["latency_seconds_p50"], rel=0.8
    )
