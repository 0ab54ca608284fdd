import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from effnlp import method
from effnlp.compression.token_dropping.dropping import ranked, significance
from effnlp.compression.token_dropping.power_bert import (
    FAMILIES,
    PowerBert,
    counts_of,
    dropping_encoder,
    penalty_of,
)
from effnlp.evaluation.flops import count_flops
from effnlp.model.classifier import LayerState, mean_pool
from effnlp.model.export import refusal
from effnlp.model.pooling import POOLINGS
from effnlp.peft.prompt import PromptTuning

DEPTH = 3
WORDS = ["a cat sat on the mat", "dull", "the film was very strange and it was not lovely , not at all"]


def dropping(model, counts):
    chosen = PowerBert(retention=counts)
    return chosen.finish(chosen.prepare(model)).eval()


def attention_of(encoder, index, state, heads):
    """(B, H, T, T) by the definition, from the layer's own weights."""
    mixer, norm = encoder.layers[index].mixer, encoder.layers[index].mixer_norm
    x = norm(state.hidden)
    query, key = (part(x).view(*x.shape[:2], heads, -1).transpose(1, 2) for part in (mixer.query, mixer.key))
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    return scores.masked_fill(state.mask[:, None, None, :] == 0, -1e9).softmax(-1)


def by_masking(model, batch, counts):
    """The logits as they are when tokens stay where they are and are only masked, text by text; and who is left."""
    encoder, logits, left = model.encoder, [], []
    for i in range(len(batch["input_ids"])):
        length = int(batch["attention_mask"][i].sum())
        state = encoder.embed({n: v[i : i + 1, :length] for n, v in batch.items() if v.dim() == 2})
        for index in range(encoder.depth):
            paid = attention_of(encoder, index, state, heads=2)[0]  # (H, T, T)
            received = (paid * state.mask[0][None, :, None]).sum((0, 1)).masked_fill(state.mask[0] == 0, -1)
            state = encoder.layer(index, state)
            if index < len(counts):
                received[0] = 99
                mask = torch.zeros_like(state.mask)
                mask[0, received.topk(min(counts[index], int(state.mask.sum()))).indices] = 1
                state = LayerState(state.hidden, mask * state.mask)
        logits.append(model.head(mean_pool(encoder.norm(state.hidden), state.mask)))
        left.append(state.mask[0].nonzero().squeeze(1).tolist())
    return torch.cat(logits), left


def test_what_leaves_is_as_if_it_were_masked_from_there_on(make_classifier, make_batch):
    batch, counts = make_batch(12), [7, 3]
    expected, left = by_masking(make_classifier(depth=DEPTH), batch, counts)
    torch.testing.assert_close(
        dropping(make_classifier(depth=DEPTH), counts)(batch), expected, rtol=0, atol=1e-5
    )
    assert all(0 in kept for kept in left)
    assert any(kept != list(range(len(kept))) for kept in left)  # it is not the beginning that is kept
    assert (expected - make_classifier(depth=DEPTH)(batch)).abs().max() > 1e-3


@pytest.mark.parametrize("counts", [[16, 16], [24, 24]])
def test_to_keep_all_tokens_is_the_model_itself(make_classifier, make_batch, counts):
    batch = make_batch(12)
    kept = dropping(make_classifier(depth=DEPTH), counts)(batch)
    assert torch.equal(kept, make_classifier(depth=DEPTH)(batch))


def test_later_layers_compute_no_more_tokens_than_are_kept(make_classifier, make_batch):
    model, seen = dropping(make_classifier(depth=DEPTH), [7, 3]), []
    for block in model.encoder.encoder.layers:
        block.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[1]))
    batch = make_batch(12)
    model(batch)
    assert seen == [batch["input_ids"].shape[1], 7, 3]


def test_flops_fall_with_the_tokens_kept_and_none_are_uncounted(make_classifier, make_batch):
    batch, flops = make_batch(12), []
    for counts in ([16, 16], [12, 8], [8, 8], [4, 2], [1, 1]):
        model = dropping(make_classifier(depth=DEPTH), counts)
        with torch.no_grad():
            flops.append(count_flops(lambda model=model: model(batch)).flops)
    assert None not in flops
    assert all(a > b for a, b in pairwise(flops))
    assert flops[-1] < 0.5 * flops[0]


def test_a_text_answers_the_same_alone_and_in_a_batch_of_32(make_classifier, make_batch):
    batch, model = make_batch(32), dropping(make_classifier(depth=DEPTH), [6, 4])
    together = model(batch)
    for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = {n: v[i : i + 1, :length] for n, v in batch.items() if v.dim() == 2}
        torch.testing.assert_close(model(alone)[0], together[i], rtol=0, atol=1e-5)


def test_significance_is_the_attention_received(make_batch):
    torch.manual_seed(0)
    query, key = torch.randn(3, 4, 7, 5), torch.randn(3, 4, 7, 5)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6])
    received = significance(query, key, mask)
    for b in range(3):
        for w in range(7):
            total = 0.0
            for h in range(4):
                for q in range(int(mask[b].sum())):
                    row = (query[b, h, q] @ key[b, h].T / math.sqrt(5))[: int(mask[b].sum())].softmax(0)
                    total += float(row[w]) if w < len(row) else 0.0
            assert received[b, w] == pytest.approx(total, abs=1e-4)
    torch.testing.assert_close(received.sum(1), 4.0 * mask.sum(1))


def test_a_token_that_reads_from_left_to_right_pays_none_that_follow():
    query, key, mask = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4), torch.ones(1, 5, dtype=torch.int64)
    expected = torch.zeros(5)
    for h in range(2):
        for q in range(5):
            expected[: q + 1] += (query[0, h, q] @ key[0, h, : q + 1].T / 2).softmax(0)
    torch.testing.assert_close(significance(query, key, mask, is_causal=True)[0], expected)


def test_ranks_put_the_protected_first_and_padding_last():
    received = torch.tensor([[0.1, 5.0, 0.2, 7.0, 9.0], [3.0, 2.0, 8.0, 1.0, 4.0]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    assert ranked(received, mask, protected=1).tolist() == [[0, 2, 3, 1, 4], [0, 3, 1, 4, 2]]


def test_counts_are_masses_rounded_up_that_never_rise():
    retention = torch.tensor([[1.0, 1.0, 0.5, 0.1], [1.0, 1.0, 1.0, 0.5], [1.0, 0.0, 0.0, 0.0], [0.0] * 4])
    assert counts_of(retention, protected=1) == [3, 3, 1, 1]
    assert counts_of(torch.ones(2, 300), protected=1) == [300, 300]
    assert penalty_of(retention) == pytest.approx(1 * 2.6 + 2 * 3.5 + 3 * 1.0)


def test_in_the_search_tokens_are_weighed_by_the_retention_of_their_rank_and_none_leaves(
    make_classifier, make_batch, loss_of
):
    batch, chosen = make_batch(8), PowerBert(penalty=0.0)
    model = chosen.prepare(make_classifier(depth=DEPTH)).train()
    assert torch.equal(model(batch), make_classifier(depth=DEPTH)(batch))
    encoder = dropping_encoder(model)
    with torch.no_grad():
        encoder.retention[:, 4:] = 0.0  # ranks from 4 on are nothing
    assert (model(batch) - make_classifier(depth=DEPTH)(batch)).abs().max() > 1e-3
    chosen.objective(loss_of)(model, batch).backward()
    assert encoder.retention.grad[:, 1:4].abs().min() > 0
    assert (encoder.retention.grad[:, 0] == 0).all()  # the first token has rank 0 and is not weighed


def test_it_is_learned_of_as_many_tokens_as_a_text_can_have(make_classifier, make_batch):
    batch, chosen = make_batch(8), PowerBert()
    length = batch["input_ids"].shape[1]
    positions = make_classifier(depth=DEPTH).encoder.position_count
    data = SimpleNamespace(tokenizer=SimpleNamespace(max_length=length))
    assert chosen.gather(data, None) is data
    model = chosen.prepare(make_classifier(depth=DEPTH)).train()
    assert length < positions
    assert model.encoder.retention.shape == (DEPTH - 1, length)
    assert model(batch).isfinite().all()
    with_prompt = chosen.prepare(PromptTuning(length=3).prepare(make_classifier(depth=DEPTH))).train()
    assert with_prompt.encoder.retention.shape == (DEPTH - 1, length + 3)
    assert with_prompt(batch).isfinite().all()
    chosen.longest = 10 * positions
    assert chosen.prepare(make_classifier(depth=DEPTH)).encoder.retention.shape == (DEPTH - 1, positions)


def test_the_penalty_is_paid_in_the_search_alone(make_classifier, make_batch, loss_of):
    batch, chosen = make_batch(8), PowerBert(penalty=0.01, search=0.5)
    model = chosen.prepare(make_classifier(depth=DEPTH)).train()
    loss = chosen.objective(loss_of)
    retention = dropping_encoder(model).retention
    torch.testing.assert_close(loss(model, batch) - loss_of(model, batch), 0.01 * penalty_of(retention))
    chosen.advance(model, 5, 10)
    assert loss(model, batch) == loss_of(model, batch)
    assert not retention.requires_grad


def trained(fit, make_classifier, make_batch, loss_of, **options):
    chosen = PowerBert(penalty=0.05, search=0.6)
    model = method.prepare([chosen], make_classifier(depth=2))
    batches = [make_batch(8, seed=seed) for seed in range(5)]
    seen = fit(model, batches, 2, method.callbacks([chosen]), method.objective([chosen], loss_of), **options)
    return seen, model, chosen


def test_a_resumed_training_ends_as_the_uninterrupted_one_with_fewer_tokens(
    fit, make_classifier, make_batch, loss_of
):
    losses, whole, chosen = trained(fit, make_classifier, make_batch, loss_of)
    before, _, _ = trained(fit, make_classifier, make_batch, loss_of, epochs=1)
    after, in_two, _ = trained(fit, make_classifier, make_batch, loss_of, resume=True)
    assert before + after == losses
    assert all(torch.equal(value, in_two.state_dict()[name]) for name, value in whole.state_dict().items())
    assert whole.encoder.counts == in_two.encoder.counts
    assert whole.encoder.counts[0] < 24
    assert not whole.encoder.is_soft
    finished = chosen.finish(whole)
    assert "tokens are computed" in refusal(finished)
    assert finished.encoder.retention is None
    assert finished.applied["compression/token_dropping"] == {
        "layers": 1, "tokens_after_layer_1": whole.encoder.counts[0],
    }  # fmt: skip


def test_it_counts_only_from_the_end_of_the_search():
    assert method.settled_after([PowerBert(search=0.3)]) == 0.3
    assert method.settled_after([PowerBert(retention=[3])]) == 0.0


@pytest.mark.parametrize("family", FAMILIES[:1] + FAMILIES[2:3] + FAMILIES[4:7])
def test_families_drop_tokens_as_if_each_text_were_alone(tiny_family, family):
    tiny = tiny_family(family)
    batch, before = tiny.batch(WORDS), tiny.model(tiny.batch(WORDS))
    assert torch.equal(dropping(tiny.build(), [48])(batch), before)
    model = dropping(tiny.build(), [4])
    together = model(batch)
    assert (together - before)[2].abs().max() > 1e-4
    for i, text in enumerate(WORDS):
        torch.testing.assert_close(model(tiny.batch([text]))[0], together[i], rtol=0, atol=1e-5)


def test_on_minilm_the_significance_is_that_of_the_librarys_attention(minilm):
    batch = minilm.batch(WORDS)
    inner = minilm.model.encoder.model
    inner.set_attn_implementation("eager")
    with torch.no_grad():
        paid = inner(
            **{n: batch[n] for n in ("input_ids", "attention_mask")}, output_attentions=True
        ).attentions
        expected = (paid[0] * batch["attention_mask"][:, None, :, None]).sum((1, 2))
        model = dropping(minilm.model, [6, 6, 5, 4, 4])
        _, received = model.encoder._watched(0, model.encoder.encoder.embed(batch))
        torch.testing.assert_close(received, expected, rtol=0, atol=1e-4)
        assert model(batch).isfinite().all()
    assert model.encoder.encoder.pooling in POOLINGS


@pytest.mark.parametrize("family", ["gpt2", "t5", "deberta"])
def test_families_whose_layers_look_at_distances_or_are_pooled_at_the_end_are_refused(tiny_family, family):
    with pytest.raises(ValueError, match=f"tokens cannot leave models of type '{family}'"):
        PowerBert().prepare(tiny_family(family).model)


def test_a_single_layer_or_another_number_of_counts_is_refused(make_classifier):
    with pytest.raises(ValueError, match="at least 2 layers, got 1"):
        PowerBert().prepare(make_classifier(depth=1))
    with pytest.raises(ValueError, match=r"retention must have 2 counts, one for each .*, got \[5\]"):
        PowerBert(retention=[5]).prepare(make_classifier(depth=3))
    with pytest.raises(ValueError, match="no token can leave: the encoder is a BackboneEncoder"):
        PowerBert().finish(make_classifier())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retention": [3, 5]}, r"retention must be counts of at least 1 that do not rise, got \[3, 5\]"),
        ({"retention": [0]}, "retention must be counts of at least 1"),
        ({"retention": []}, "retention must be counts of at least 1"),
        ({"penalty": -1.0}, "penalty must be at least 0, got -1.0"),
        ({"search": 1.0}, r"search must be in \(0, 1\), got 1.0"),
        ({"learning_rate_factor": 0}, "learning_rate_factor must be above 0, got 0"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        PowerBert(**settings)
