import pytest
import torch

from effnlp.model.pooling import POOLINGS, check_pooling, first_token, last_token, max_pool


def by_hand(name, tokens):
    """One text, its tokens (T, D), without padding."""
    return {"mean": tokens.mean(0), "max": tokens.amax(0), "cls": tokens[0], "last": tokens[-1]}[name]


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_on_either_side(name, side):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(4, 7, 5, generator=generator)
    lengths = [7, 1, 3, 6]
    mask = torch.zeros(4, 7, dtype=torch.int64)
    expected = []
    for row, length in enumerate(lengths):
        real = slice(7 - length, 7) if side == "left" else slice(0, length)
        mask[row, real] = 1
        expected.append(by_hand(name, hidden[row, real]))
    hidden[mask == 0] = 1e4  # what padding holds is larger than all else
    torch.testing.assert_close(POOLINGS[name](hidden, mask), torch.stack(expected))


def test_the_largest_may_be_negative():
    hidden = torch.tensor([[[-3.0], [-2.0], [9.0]]])
    assert max_pool(hidden, torch.tensor([[1, 1, 0]])).item() == -2


def test_a_text_of_one_token_is_its_first_and_its_last():
    hidden, mask = torch.randn(2, 4, 3), torch.tensor([[0, 0, 1, 0], [1, 0, 0, 0]])
    assert torch.equal(first_token(hidden, mask), last_token(hidden, mask))


def test_an_unknown_pooling_is_refused():
    check_pooling("auto")
    with pytest.raises(ValueError, match="pooling must be one of auto, mean, cls, last, max, got 'median'"):
        check_pooling("median")
