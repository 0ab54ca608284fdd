import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from effnlp.compression.pruning.movement import Movement
from effnlp.data.encodings import Encodings
from effnlp.evaluation.flops import count_flops
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.language import LanguageModel
from effnlp.model.mixer.attention import Attention

VOCABULARY = 30
D, F, DEPTH = 16, 24, 2


@pytest.fixture
def make_model():
    def make(seed=0, causal=True):
        torch.manual_seed(seed)

        def mixer(**how):
            return Attention(**how, causal=causal)

        encoder = BackboneEncoder(Size(DEPTH, D, 2, F), mixer, VOCABULARY, max_length=32, dropout=0.0)
        for parameter in encoder.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))  # far from the near-uniform start
        return LanguageModel(encoder).eval()

    return make


ROWS = [[1, 5, 7, 9, 2, 11], [1, 3], [1, 8, 8, 4, 6], [1]]


def encodings(rows=ROWS):
    return Encodings.from_lists(rows, pad_id=0)


def test_no_score_sees_a_token_that_follows_it(make_model):
    model = make_model()
    before = torch.tensor([[1, 5, 7, 9, 2, 11]])
    mask = torch.ones_like(before)
    for t in range(1, 5):
        after = before.clone()
        after[:, t:] = (after[:, t:] + 13) % VOCABULARY
        with torch.no_grad():
            scores, others = (
                model.scores({"input_ids": ids, "attention_mask": mask}) for ids in (before, after)
            )
        assert torch.allclose(scores[:, :t], others[:, :t], atol=1e-6)
        assert (scores[:, t:] - others[:, t:]).abs().max() > 1e-2


def test_without_the_causal_mask_the_next_token_is_seen(make_model):
    model, ids = make_model(causal=False), torch.tensor([[1, 5, 7, 9]])
    other = torch.tensor([[1, 5, 7, 8]])
    with torch.no_grad():
        scores, others = (
            model.scores({"input_ids": i, "attention_mask": torch.ones_like(i)}) for i in (ids, other)
        )
    assert (scores[:, 0] - others[:, 0]).abs().max() > 1e-3


def test_a_text_costs_the_sum_over_its_tokens_whatever_is_padded_and_whoever_is_beside_it(make_model):
    model = make_model()
    with torch.no_grad():
        together = model(encodings().batch(range(4)))
        wide = model(encodings().batch(range(4), pad_to_multiple=16))
        alone = torch.cat([model(encodings().batch([i])) for i in range(4)])
        slow = []
        for row in ROWS:
            ids = torch.tensor([row])
            scores = model.scores({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0]
            slow.append(sum(float(cross_entropy(scores[t], ids[0, t + 1])) for t in range(len(row) - 1)))
    assert together[:, 1].tolist() == [5, 1, 4, 0]
    assert together[:, 0].tolist() == pytest.approx(slow, abs=1e-4)
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.allclose(together, wide, atol=1e-4)


def test_a_model_without_preferences_pays_the_logarithm_of_the_vocabulary_for_each_token(make_model):
    model = make_model()
    model.encoder.tokens.weight.data.zero_()
    with torch.no_grad():
        nats, tokens = model(encodings().batch(range(4))).unbind(1)
    assert torch.allclose(nats, tokens * math.log(VOCABULARY), atol=1e-5)


def test_the_head_is_the_table_of_the_embeddings_and_gradients_reach_it_from_both_sides(make_model):
    model = make_model()
    names = [name for name, parameter in model.named_parameters() if parameter.shape == (VOCABULARY, D)]
    assert names == ["encoder.tokens.weight"]
    model(encodings().batch(range(4)))[:, 0].sum().backward()
    gradient = model.encoder.tokens.weight.grad.abs().sum(1)
    unread = sorted(set(range(VOCABULARY)) - {i for row in ROWS for i in row})
    assert (gradient[unread] > 0).all()  # as outputs, though no text has them
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_product_with_the_vocabulary_is_counted_at_every_token(make_model):
    model = make_model()
    batch = encodings().batch(range(4))
    rows, length = batch["input_ids"].shape
    tokens = rows * length
    layer = 2 * tokens * (4 * D * D + 2 * D * F)
    attention = 4 * rows * length**2 * D

    def work():
        with torch.inference_mode():
            model(batch)

    count = count_flops(work)
    assert count.uncounted == {}
    assert count.flops == DEPTH * (layer + attention) + 2 * rows * (length - 1) * D * VOCABULARY


def test_a_method_that_wraps_layers_during_the_training_finds_them(make_model):
    movement = Movement(sparsity=0.5, learning_rate_factor=1.0)
    model = make_model()
    prepared = movement.prepare(model)
    with torch.no_grad():
        assert prepared(encodings().batch(range(4))).shape == (4, 2)
