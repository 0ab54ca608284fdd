import pytest
import torch

from effnlp.generation.choosing import distribution, draw, uniforms


@pytest.fixture
def scores():
    return torch.randn(6, 9, generator=torch.Generator().manual_seed(0)) * 2


def test_with_nothing_left_out_it_is_the_softmax(scores):
    assert torch.equal(distribution(scores), scores.double().softmax(-1))
    for off in ({"top_k": 9}, {"top_k": 99}, {"top_p": 1.0}):
        torch.testing.assert_close(distribution(scores, **off), scores.double().softmax(-1))


def test_a_low_temperature_leaves_the_likeliest_and_a_high_one_leaves_all_alike(scores):
    assert torch.equal(distribution(scores, 1e-3).argmax(-1), scores.argmax(-1))
    assert distribution(scores, 1e-3).amax(-1).min() > 0.99
    assert (distribution(scores, 1e5) - 1 / 9).abs().max() < 1e-3


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_what_is_left_is_what_a_slow_reference_leaves(scores, top_k, top_p):
    found = distribution(scores, 0.7, top_k, top_p)
    for row, of_row in zip((scores.double() / 0.7).softmax(-1).tolist(), found, strict=True):
        order = sorted(range(len(row)), key=lambda i: -row[i])[:top_k]
        mass, kept = 0.0, []
        for i in order:
            if mass < top_p:
                kept.append(i)
            mass += row[i] / sum(row[j] for j in order)
        assert sorted(kept) == of_row.nonzero().flatten().tolist()
        total = sum(row[i] for i in kept)
        assert of_row[kept].tolist() == pytest.approx([row[i] / total for i in kept])


def test_of_equal_scores_at_the_border_the_smaller_ids_stay():
    tied = torch.zeros(1, 5)
    assert distribution(tied, top_k=2)[0].tolist() == [0.5, 0.5, 0, 0, 0]
    assert distribution(tied, top_p=0.5)[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])


def test_a_draw_is_the_token_in_whose_share_the_number_falls():
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]], dtype=torch.float64)
    numbers = torch.tensor([0.0, 0.24, 0.25, 0.74, 0.75, 1 - 1e-16], dtype=torch.float64)
    assert draw(probabilities.expand(6, -1), numbers).tolist() == [1, 1, 3, 3, 4, 4]


def test_each_text_has_numbers_of_its_own():
    assert torch.equal(uniforms(1, 2, 5), uniforms(1, 2, 5))
    assert torch.equal(uniforms(1, 2, 5), uniforms(1, 2, 9)[:5])
    assert len({float(uniforms(seed, text, 1)) for seed in range(4) for text in range(4)}) == 16
