import math

import pytest
import torch

from effnlp.model.mixer.attention import Attention


def test_it_equals_softmax_attention_written_out():
    torch.manual_seed(0)
    mixer = Attention(24, heads=3)
    hidden = torch.randn(2, 7, 24)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    expected = torch.empty(2, 7, 24)
    for b in range(2):
        query, key, value = mixer.query(hidden[b]), mixer.key(hidden[b]), mixer.value(hidden[b])
        mixed = torch.empty(7, 24)
        for head in range(3):
            columns = slice(8 * head, 8 * head + 8)
            for t in range(7):
                scores = [
                    (query[t, columns] @ key[s, columns] / math.sqrt(8)).exp() * mask[b, s] for s in range(7)
                ]
                total = sum(scores)
                mixed[t, columns] = sum(w / total * value[s, columns] for s, w in enumerate(scores))
        expected[b] = mixer.output(mixed)
    assert (mixer(hidden, mask) - expected).abs().max() < 1e-5


def test_what_is_masked_leaks_into_nothing():
    torch.manual_seed(0)
    mixer = Attention(32, heads=4)
    hidden = torch.randn(3, 8, 32)
    mask = torch.ones(3, 8, dtype=torch.long)
    mask[:, 5:] = 0
    other = hidden.clone()
    other[:, 5:] = 1e3 * torch.randn(3, 3, 32)
    assert torch.equal(mixer(hidden, mask)[:, :5], mixer(other, mask)[:, :5])
    assert (mixer(hidden, mask)[:, :5] - mixer(hidden[:, :5], mask[:, :5])).abs().max() < 1e-5


@pytest.mark.parametrize("heads", [0, 3, 64])
def test_heads_that_do_not_divide_the_width_are_refused(heads):
    with pytest.raises(ValueError, match=f"heads must divide the width 32, got {heads}"):
        Attention(32, heads)
