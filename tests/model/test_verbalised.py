import math
import pickle

import pytest
import torch

from effnlp.data.encodings import Encodings
from effnlp.evaluation.flops import count_flops
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.language import TiedHead, TokenModel
from effnlp.model.mixer.attention import Attention
from effnlp.model.verbalised import VerbalisedModel

MASK = 19


def tokens(causal):
    torch.manual_seed(0)

    def mixer(**how):
        return Attention(**how, causal=causal)

    encoder = BackboneEncoder(Size(2, 16, 2, 32), mixer, vocabulary_size=20, max_length=16, dropout=0.0)
    with torch.no_grad():
        encoder.tokens.weight.normal_(std=0.5)
    return TokenModel(encoder, TiedHead(20), predicts_next=causal).eval()


@pytest.fixture
def rows():
    return [[1, 5, 6, MASK, 7], [1, MASK, 8], [1, 9, 10, 11, 12, 13, MASK]]


def batch_of(rows, pad=1):
    return Encodings.from_lists(rows, pad_id=0).batch(range(len(rows)), pad_to_multiple=pad)


def test_at_a_mask_the_score_is_the_log_probability_of_the_word(rows):
    model = tokens(causal=False)
    answering = VerbalisedModel(model, [[[3]], [[4]], [[14]]], MASK, 16).eval()
    with torch.no_grad():
        given = answering(batch_of(rows))
        for i, row in enumerate(rows):
            states = model.encoder.states(batch_of([row]))[0, row.index(MASK)]
            expected = (model.encoder.tokens.weight @ states + model.head.bias).log_softmax(0)[[3, 4, 14]]
            assert torch.allclose(given[i], expected, atol=1e-5)


def test_after_a_text_the_score_is_the_sum_over_the_tokens_of_the_word():
    model = tokens(causal=True)
    rows = [[1, 5, 6], [1, 7], [1, 9, 10, 11, 12, 13]]
    words = [[[3]], [[4, 8, 2]], [[14, 3]]]
    answering = VerbalisedModel(model, words, None, 16).eval()
    with torch.no_grad():
        given = answering(batch_of(rows))
        for i, row in enumerate(rows):
            for c, (word,) in enumerate(words):
                total = 0.0
                for end in range(len(word)):
                    states = model.encoder.states(batch_of([[*row, *word[:end]]]))
                    total += float(model.token_scores(states)[0, -1].log_softmax(0)[word[end]])
                assert float(given[i, c]) == pytest.approx(total, abs=1e-4)


def test_words_of_one_token_need_one_pass_and_give_what_many_passes_would():
    model = tokens(causal=True)
    batch = batch_of([[1, 5, 6], [1, 7]])
    one = VerbalisedModel(model, [[[3]], [[4]]], None, 16).eval()
    many = VerbalisedModel(model, [[[3]], [[4]], [[5, 6]]], None, 16).eval()
    with torch.no_grad():
        assert torch.allclose(one(batch), many(batch)[:, :2], atol=1e-5)
        costs = [count_flops(lambda m=m: m(batch)) for m in (one, many)]
    assert not costs[0].uncounted
    assert not costs[1].uncounted
    assert costs[1].flops > 3 * costs[0].flops


def test_several_words_of_a_class_count_by_their_mean_probability(rows):
    model = tokens(causal=False)
    batch = batch_of(rows)
    with torch.no_grad():
        each = VerbalisedModel(model, [[[3]], [[4]], [[5]]], MASK, 16).eval()(batch)
        both = VerbalisedModel(model, [[[3], [4]], [[5]]], MASK, 16).eval()(batch)
    assert torch.allclose(both[:, 0].exp(), (each[:, 0].exp() + each[:, 1].exp()) / 2)
    assert torch.allclose(both[:, 1], each[:, 2])


@pytest.mark.parametrize("causal", [False, True])
def test_an_answer_does_not_depend_on_padding_or_on_the_rest_of_the_batch(rows, causal):
    words = [[[3, 4]], [[4]]] if causal else [[[3]], [[4]]]
    answering = VerbalisedModel(tokens(causal), words, None if causal else MASK, 16).eval()
    with torch.no_grad():
        together = answering(batch_of(rows, pad=16))
        alone = torch.cat([answering(batch_of([row])) for row in rows])
    assert torch.allclose(together, alone, atol=1e-5)


def test_calibrated_scores_are_shifted_by_what_says_nothing_and_twice_is_once(rows):
    answering = VerbalisedModel(tokens(causal=False), [[[3]], [[4]], [[5]]], MASK, 16).eval()
    batch = batch_of(rows)
    with torch.no_grad():
        before = answering(batch)
        prior = before.softmax(1).mean(0)
        answering.calibrate(before)
        after = answering(batch)
        assert torch.allclose(after, before - prior.log(), atol=1e-5)
        # The answer of the paper: argmax of W p, W = diag(1 / p_cf).
        assert torch.equal(after.argmax(1), (before.softmax(1) / prior).argmax(1))
        answering.calibrate(after)
        assert torch.allclose(answering(batch), after, atol=1e-5)


def test_inputs_that_say_nothing_are_undecided_after_calibration():
    answering = VerbalisedModel(tokens(causal=False), [[[3]], [[4]], [[5]]], MASK, 16).eval()
    empty = batch_of([[1, MASK, 8]])
    with torch.no_grad():
        answering.calibrate(answering(empty))
        assert torch.allclose(answering(empty).softmax(1), torch.full((1, 3), 1 / 3), atol=1e-5)


def test_no_operator_is_uncounted_and_a_stored_model_answers_alike(rows):
    answering = VerbalisedModel(tokens(causal=False), [[[3], [5]], [[4]]], MASK, 16).eval()
    batch = batch_of(rows)
    with torch.no_grad():
        counted = count_flops(lambda: answering(batch))
        again = pickle.loads(pickle.dumps(answering))
        assert torch.equal(again(batch), answering(batch))
    assert not counted.uncounted
    assert counted.flops > 0


@pytest.mark.parametrize(
    ("words", "mask", "said"),
    [([[[3]], []], MASK, "every class needs a word"), ([[[3, 4]], [[5]]], MASK, "answers with one token")],
)
def test_words_that_cannot_be_answers_are_refused(words, mask, said):
    with pytest.raises(ValueError, match=said):
        VerbalisedModel(tokens(causal=False), words, mask, 16)


def test_a_uniform_model_gives_each_word_of_n_tokens_n_times_the_log_of_the_vocabulary():
    model = tokens(causal=True)
    with torch.no_grad():
        model.encoder.tokens.weight.zero_()
        given = VerbalisedModel(model, [[[3]], [[4, 5]]], None, 16).eval()(batch_of([[1, 2]]))
    assert given[0].tolist() == pytest.approx([-math.log(20), -2 * math.log(20)], rel=1e-5)
