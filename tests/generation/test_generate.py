import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from effnlp.generation.beams import beam_search
from effnlp.generation.generate import generate
from effnlp.generation.settings import Settings

VOCABULARY = 12
PROMPTS = [[1, 5, 7, 9, 2, 11], [1, 3], [1, 8, 8, 4], [6]]


def logits_after(model, ids):
    """A slow reference: all tokens are read again."""
    batch = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
    with torch.inference_mode():
        states = model.encoder.states(batch)
        return torch.nn.functional.linear(states, model.encoder.tokens.weight, model.head.bias)[
            0, -1
        ].double()


def test_greedy_takes_the_likeliest_token_that_reading_all_anew_gives(make_decoder):
    model = make_decoder()
    found = generate(model, PROMPTS, Settings(new_tokens=8))
    for prompt, each in zip(PROMPTS, found, strict=True):
        ids, nats = list(prompt), 0.0
        for _ in range(8):
            scores = logits_after(model, ids).log_softmax(-1)
            ids.append(int(scores.argmax()))
            nats += float(scores.max())
        assert [*prompt, *each.ids] == ids
        assert each.log_probability == pytest.approx(nats, abs=1e-4)
        assert not each.has_ended


@pytest.mark.parametrize(
    "settings",
    [
        Settings(new_tokens=7),
        Settings(new_tokens=7, beams=3),
        Settings(new_tokens=7, beams=3, length_penalty=0.7),
        Settings(new_tokens=7, temperature=1.3, top_k=7, top_p=0.9, seed=4),
    ],
    ids=["greedy", "beams", "penalised", "drawn"],
)
def test_what_follows_a_text_is_the_same_in_any_company(make_decoder, settings):
    model, ends = make_decoder(), {0, 4}
    together = generate(model, PROMPTS, settings, ends)
    alone = [generate(model, [p], settings, ends, first=n)[0] for n, p in enumerate(PROMPTS)]
    assert [each.ids for each in together] == [each.ids for each in alone]
    assert [each.has_ended for each in together] == [each.has_ended for each in alone]
    assert [each.log_probability for each in together] == pytest.approx(
        [each.log_probability for each in alone], abs=1e-4
    )
    assert len({each.ids for each in together}) > 1


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_is_greedy(make_decoder, seed):
    model = make_decoder(seed)
    for ends in ((), (0, 4, 7)):
        greedy = generate(model, PROMPTS, Settings(new_tokens=6), ends)
        for each, (ids, nats, has_ended) in zip(
            greedy, beam_search(model, PROMPTS, 6, 1, 0.0, ends), strict=True
        ):
            assert (each.ids, each.has_ended) == (ids, has_ended)
            assert each.log_probability == pytest.approx(nats, abs=1e-4)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_enough_beams_find_the_best_of_all_continuations(make_decoder, seed, length_penalty):
    vocabulary, new, ends = 4, 4, (2,)
    model = make_decoder(seed, vocabulary)
    prompts = [[1, 3, 0], [3]]
    settings = Settings(new_tokens=new, beams=vocabulary**new, length_penalty=length_penalty)
    found = generate(model, prompts, settings, ends)
    for prompt, each in zip(prompts, found, strict=True):
        best = (-math.inf, ())
        for length in range(1, new + 1):
            for ids in itertools.product(range(vocabulary), repeat=length):
                if any(i in ends for i in ids[:-1]) or (length < new and ids[-1] not in ends):
                    continue
                nats = sum(
                    float(logits_after(model, [*prompt, *ids[:t]]).log_softmax(-1)[ids[t]])
                    for t in range(length)
                )
                best = max(best, (nats / length**length_penalty, ids))
        value, ids = best
        assert each.ids == tuple(i for i in ids if i not in ends)
        assert each.has_ended == (ids[-1] in ends)
        assert each.log_probability / len(ids) ** length_penalty == pytest.approx(value, abs=1e-4)


def test_more_beams_never_find_worse_where_greedy_is_not_best(make_decoder):
    values = [
        [generate(make_decoder(seed), PROMPTS, Settings(8, beams=b))[0].log_probability for seed in range(8)]
        for b in (1, 12**2)
    ]
    assert all(many >= one - 1e-4 for one, many in zip(*values, strict=True))
    assert any(many > one + 1e-2 for one, many in zip(*values, strict=True))


def test_a_text_ends_where_the_model_says_so_and_the_others_go_on(make_decoder):
    model = make_decoder()
    free = generate(model, PROMPTS, Settings(new_tokens=8))
    with_it = {token: sum(token in each.ids for each in free) for token in range(VOCABULARY)}
    end = next(token for token, count in with_it.items() if 0 < count < len(PROMPTS))
    found = generate(model, PROMPTS, Settings(new_tokens=8), ends=[end])
    for before, after in zip(free, found, strict=True):
        cut = before.ids[: before.ids.index(end)] if end in before.ids else before.ids
        assert after.ids == cut
        assert after.has_ended == (end in before.ids)


def test_draws_have_the_frequencies_of_the_softmax():
    scores = torch.tensor([[0.5, -1.0, 2.0, 0.0, 1.0]])
    count = 4000

    def next_scores(batch, past):
        past.lengths = tuple(range(len(batch["input_ids"])))
        return scores.expand(len(batch["input_ids"]), -1)

    encoder = SimpleNamespace(read_on=None, check_reads_on=lambda: None, position_count=9, prompt=None)
    model = SimpleNamespace(next_scores=next_scores, encoder=encoder, parameters=lambda: iter([scores]))
    found = generate(model, [[1]] * count, Settings(new_tokens=1, temperature=0.8, seed=3))
    counts = torch.bincount(torch.tensor([each.ids[0] for each in found]), minlength=5)
    expected = (scores[0] / 0.8).softmax(-1)
    bounds = 4 * (count * expected * (1 - expected)).sqrt()
    assert ((counts - count * expected).abs() < bounds).all()


def test_the_same_seed_draws_the_same_and_another_seed_does_not(make_decoder):
    model = make_decoder()
    first, again, other = (
        [each.ids for each in generate(model, PROMPTS, Settings(8, temperature=1.0, seed=seed))]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_texts_that_do_not_fit_are_refused_before_anything_is_read(make_decoder):
    model = make_decoder(max_length=10)
    with pytest.raises(ValueError, match=r"text 1 has 6 tokens, and 5 new ones do not fit .* reads 10"):
        generate(model, PROMPTS, Settings(new_tokens=5))
    assert len(generate(model, PROMPTS, Settings(new_tokens=4))[0].ids) == 4
    with pytest.raises(ValueError, match="text 2 has no token"):
        generate(model, [[1], []], Settings(new_tokens=2))


def test_a_model_that_predicts_no_next_token_is_refused(make_classifier):
    with pytest.raises(ValueError, match=r"Classifier predicts no next tokens.*finetuning=causal_lm"):
        generate(make_classifier(), PROMPTS, Settings())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"new_tokens": 0}, "new_tokens must be at least 1, got 0"),
        ({"beams": 0}, "beams must be at least 1, got 0"),
        ({"beams": 2, "length_penalty": -1.0}, "length_penalty must not be negative, got -1.0"),
        ({"temperature": -0.1}, "temperature must not be negative, got -0.1"),
        ({"temperature": 1.0, "top_k": 0}, "top_k must be at least 1, got 0"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"beams": 2, "temperature": 1.0}, "beams=2 needs temperature=0, got 1.0"),
        ({"top_k": 3}, "give a temperature above 0"),
        ({"length_penalty": 1.0}, "give more than one of beams"),
    ],
)
def test_values_outside_their_range_or_at_odds_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values)
