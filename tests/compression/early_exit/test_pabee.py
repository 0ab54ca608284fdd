import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from effnlp.compression.early_exit.pabee import PABEE, ByAgreement, layer_weights, threshold_of

DEPTH = 6


def labels_of_layers(model, batch):
    """(B, DEPTH) of every head."""
    return torch.stack([logits.argmax(-1) for _, logits in model.along(batch, DEPTH, True)], 1)


def depth_by_the_paper(labels, patience):
    """Algorithm of the paper for one text: count agreements in a row, leave when there are enough."""
    count = 0
    for layer in range(1, len(labels)):
        count = count + 1 if labels[layer] == labels[layer - 1] else 0
        if count == patience:
            return layer + 1
    return len(labels)


@pytest.fixture
def exiting(make_classifier):
    def make(patience, seed=0):
        chosen = PABEE(patience)
        model = chosen.prepare(make_classifier(depth=DEPTH, seed=seed))
        torch.manual_seed(seed)
        with torch.no_grad():
            shared = torch.randn(3, 32) * 0.5  # so that heads agree now and then
            for head in [*model.exits, model.head]:
                head.weight.copy_(shared + torch.randn(3, 32) * 0.3)
        return chosen.finish(model).eval()

    return make


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_text_leaves_when_enough_heads_in_a_row_agree(exiting, make_batch, patience):
    model, batch = exiting(patience), make_batch(64)
    model(batch)
    labels = labels_of_layers(model, batch).tolist()
    assert model.last_depths.tolist() == [depth_by_the_paper(row, patience) for row in labels]
    assert len(model.last_depths.unique()) >= (3 if patience < 3 else 2)


@pytest.mark.parametrize("patience", [DEPTH, DEPTH + 5])
def test_a_patience_of_the_depth_or_more_gives_the_whole_model(
    exiting, make_batch, make_classifier, patience
):
    model, batch = exiting(patience), make_batch(16)
    with torch.no_grad():
        model.head.weight.zero_()
        for head in model.exits:
            head.weight.zero_()  # all heads agree on all texts, as far as they can
            head.bias.copy_(model.head.bias)
    plain = make_classifier(depth=DEPTH)
    plain.head.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(model(batch), plain(batch), rtol=0, atol=1e-6)
    assert (model.last_depths == DEPTH).all()


def test_without_patience_all_leave_after_the_first_layer(exiting, make_batch):
    model = exiting(0)
    model(make_batch(16))
    assert (model.last_depths == 1).all()


def test_a_disagreement_starts_the_count_anew():
    rule, memory, counts = ByAgreement(), None, []
    for label in [0, 0, 0, 1, 1, 0]:
        doubt, memory = rule(None, nn.functional.one_hot(torch.tensor([label]), 2).float(), memory)
        counts.append(-doubt.item())
    assert counts == [0, 1, 2, 0, 1, 0]


def test_the_loss_weighs_each_head_by_its_depth(make_classifier, make_batch, loss_of):
    batch, chosen = make_batch(), PABEE()
    model = chosen.prepare(make_classifier(depth=DEPTH)).train()
    losses = [cross_entropy(logits, batch["labels"]) for _, logits in model.along(batch, DEPTH, False)]
    expected = sum(j * loss for j, loss in enumerate(losses, start=1)) / sum(range(1, DEPTH + 1))
    torch.testing.assert_close(chosen.objective(loss_of)(model, batch), expected)
    torch.testing.assert_close(layer_weights(DEPTH).sum(), torch.tensor(1.0))


def test_every_parameter_learns_from_the_first_step(make_classifier, make_batch, loss_of):
    chosen = PABEE()
    model = chosen.prepare(make_classifier(depth=3)).train()
    chosen.objective(loss_of)(model, make_batch()).backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
    assert all(name.endswith("key.bias") for name in still)  # softmax does not see them
    assert model.exits_in_use


def test_texts_held_out_teach_the_last_head_alone(make_classifier, make_batch, loss_of):
    batch, chosen = make_batch(64), PABEE(largest_loss=0.01)
    model = chosen.prepare(make_classifier(depth=3)).train()
    rows = chosen.target.learning_rows(batch)
    assert 0 < (~rows).sum() < 64
    kept = {name: value[rows] for name, value in batch.items()}
    logits = [one for _, one in model.along(batch, 3, False)]
    expected = (
        cross_entropy(logits[0][rows], kept["labels"])
        + 2 * cross_entropy(logits[1][rows], kept["labels"])
        + 3 * cross_entropy(logits[2], batch["labels"])
    ) / 6
    torch.testing.assert_close(chosen.objective(loss_of)(model, batch), expected)


def test_it_notes_its_patience(exiting):
    assert exiting(3).applied["compression/early_exit"] == {"exits": DEPTH - 1, "patience": 3}
    assert threshold_of(3) == -2


@pytest.mark.parametrize("patience", [-1, 1.5, math.nan])
def test_a_patience_that_is_no_count_is_refused(patience):
    with pytest.raises(ValueError, match=f"patience must be a whole number of at least 0, got {patience}"):
        PABEE(patience)
