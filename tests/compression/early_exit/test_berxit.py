import pytest
import torch
from torch.nn.functional import cross_entropy

from effnlp.compression.early_exit.berxit import BERxiT, LearnedDoubt

DEPTH = 4


def learning(model, chosen, batch, loss_of):
    """Names of the parameters that a step moves, those of keys' biases aside, which softmax does not see."""
    model.zero_grad()
    chosen.objective(loss_of)(model, batch).backward()
    return {
        name
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 1e-12 and not name.endswith("key.bias")
    }


def test_by_turns_a_step_is_for_the_last_head_and_for_all(make_classifier, make_batch, loss_of):
    chosen, batch = BERxiT(), make_batch(16)
    model = chosen.prepare(make_classifier(depth=DEPTH)).train()
    every = {name for name, _ in model.named_parameters() if not name.endswith("key.bias")}
    for step in range(4):
        chosen.advance(model, step)
        rest = {name for name in every if name.startswith(("exits.", "rule."))} if step % 2 == 0 else set()
        assert learning(model, chosen, batch, loss_of) == every - rest


def test_the_loss_is_that_of_the_last_head_or_of_all_heads_and_doubts(make_classifier, make_batch, loss_of):
    chosen, batch = BERxiT(), make_batch(16)
    model = chosen.prepare(make_classifier(depth=DEPTH)).train()
    chosen.advance(model, 0)
    torch.testing.assert_close(
        chosen.objective(loss_of)(model, batch), loss_of(make_classifier(depth=DEPTH), batch)
    )
    chosen.advance(model, 1)
    expected = 0
    for layer, (pooled, logits) in enumerate(model.along(batch, DEPTH, False), start=1):
        expected = expected + cross_entropy(logits, batch["labels"])
        if layer < DEPTH:
            u = torch.sigmoid(pooled @ model.rule.linear.weight[0] + model.rule.linear.bias)
            expected = expected + ((u - (logits.argmax(-1) != batch["labels"]).float()) ** 2).mean()
    torch.testing.assert_close(chosen.objective(loss_of)(model, batch), expected)


def test_what_teaches_the_doubt_moves_no_layer_and_no_head(make_classifier, make_batch):
    model, batch = BERxiT().prepare(make_classifier(depth=DEPTH)), make_batch(16)
    loss = sum(
        model.rule.loss(pooled, logits, batch["labels"], None)
        for pooled, logits in model.along(batch, DEPTH - 1, False)
    )
    loss.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {"rule.linear.weight", "rule.linear.bias"}


def test_one_head_doubts_all_exits(make_classifier):
    plain, model = make_classifier(depth=DEPTH), BERxiT().prepare(make_classifier(depth=DEPTH))
    added = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
    assert added == (DEPTH - 1) * (32 * 3 + 3) + 32 + 1


def test_the_doubt_comes_to_tell_wrong_exits_from_right_ones():
    torch.manual_seed(0)
    rule, pooled = LearnedDoubt(8), torch.randn(400, 8)
    labels = torch.zeros(400, dtype=torch.int64)
    logits = torch.stack([pooled[:, 0], -pooled[:, 0]], 1)  # right where the first feature is positive
    optimizer = torch.optim.AdamW(rule.parameters(), lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        rule.loss(pooled, logits, labels, None).backward()
        optimizer.step()
    doubt, _ = rule(pooled, logits, None)
    is_wrong = pooled[:, 0] < 0
    assert 0.3 < is_wrong.float().mean() < 0.7
    assert ((doubt > 0.5) == is_wrong).float().mean() > 0.9


def test_a_threshold_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"threshold must be at least 0, got -0.5"):
        BERxiT(threshold=-0.5)
