import math

import pytest
import torch

from effnlp.data.encodings import Encodings
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.language import TiedHead, TokenModel
from effnlp.model.mixer.attention import Attention
from effnlp.pretraining.clm import CLM


@pytest.fixture
def model():
    torch.manual_seed(0)

    def mixer(**how):
        return Attention(**how, causal=True)

    encoder = BackboneEncoder(Size(2, 16, 2, 32), mixer, vocabulary_size=20, max_length=16, dropout=0.0)
    return TokenModel(encoder, TiedHead(20), predicts_next=True).eval()


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 20, (n,), generator=draw).tolist() for n in (1, 2, 5, 9)]
    return Encodings.from_lists(rows, pad_id=0).batch(range(4))


def test_the_loss_is_that_of_each_token_after_a_shift_by_hand(model, batch):
    nats = []
    with torch.no_grad():
        loss = CLM(None).loss(model, batch)
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            ids = row[: int(mask.sum())]
            for end in range(1, len(ids)):
                alone = {"input_ids": ids[None, :end], "attention_mask": torch.ones(1, end, dtype=torch.long)}
                scores = model.token_scores(model.encoder.states(alone)[0, -1])
                nats.append(-float(scores.log_softmax(0)[ids[end]]))
    assert len(nats) == 0 + 1 + 4 + 8
    assert float(loss) == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert float(loss) == pytest.approx(math.log(20), rel=0.2)


def test_what_pads_a_batch_changes_nothing(model, batch):
    padded = {name: torch.nn.functional.pad(tensor, (0, 5), value=0) for name, tensor in batch.items()}
    with torch.no_grad():
        assert float(CLM(None).loss(model, padded)) == pytest.approx(
            float(CLM(None).loss(model, batch)), rel=1e-6
        )


def test_a_value_outside_its_range_is_refused_by_key():
    with pytest.raises(
        ValueError, match=r"pretraining\.batch_size must be a whole number of at least 1, got 0"
    ):
        CLM(None, batch_size=0)
