import pytest
import torch
from torch import nn

from effnlp.compression.early_exit.deebert import DeeBERT
from effnlp.compression.inputs import input_moments, of_equal_length, see_inputs
from effnlp.model.surgery import encoder_layers


def gathered(model, batches):
    """What each layer is given, text by text, each without its padding: a slow reference."""
    layers, found, alone = encoder_layers(model, nn.Linear), {}, []
    handles = [
        layer.register_forward_hook(
            lambda _, args, __, name=name: found.setdefault(name, []).append(args[0].detach().flatten(0, -2))
        )
        for name, layer in layers.items()
    ]
    for batch in batches:
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            cut = {name: batch[name][row : row + 1, :length] for name in ("input_ids", "attention_mask")}
            alone.append(model.encoder(cut))
    for handle in handles:
        handle.remove()
    assert alone
    return layers, {name: torch.cat(rows).double() for name, rows in found.items()}


@pytest.mark.parametrize(
    ("what", "of"),
    [
        ("squares", lambda x: x.square().sum(0)),
        ("outer", lambda x: x.T @ x),
        ("max", lambda x: x.abs().amax(0)),
    ],
)
def test_statistics_are_those_of_the_texts_alone_and_without_padding(make_classifier, make_batch, what, of):
    model, batches = make_classifier(), [make_batch(7, seed=seed) for seed in range(3)]
    layers, given = gathered(model, batches)
    found = input_moments(model, layers, batches, what)
    assert list(found) == list(layers)
    for name, value in found.items():
        assert value.shape == of(given[name]).shape
        torch.testing.assert_close(value.double(), of(given[name]), rtol=1e-5, atol=1e-5)


def test_what_stands_in_the_padding_changes_nothing(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch(6)
    layers = encoder_layers(model, nn.Linear)
    other = {**batch, "input_ids": batch["input_ids"].where(batch["attention_mask"].bool(), 7)}
    assert not torch.equal(other["input_ids"], batch["input_ids"])
    first, second = (input_moments(model, layers, [each], "outer") for each in (batch, other))
    assert all(torch.equal(first[name], second[name]) for name in layers)


def test_groups_hold_every_text_once_with_its_tokens_and_label(make_batch):
    batch = make_batch(20)
    texts = [
        ids[:n].tolist() for ids, n in zip(batch["input_ids"], batch["attention_mask"].sum(1), strict=True)
    ]
    groups = list(of_equal_length(batch))
    found = [
        (ids.tolist(), int(label))
        for group in groups
        for ids, label in zip(group["input_ids"], group["labels"], strict=True)
    ]
    assert sorted(found) == sorted(zip(texts, batch["labels"].tolist(), strict=True))
    assert all(group["attention_mask"].all() for group in groups)


def test_texts_padded_on_the_left_are_the_same_texts(make_batch):
    batch = make_batch(9)
    turned = {
        **batch,
        "input_ids": batch["input_ids"].flip(1),
        "attention_mask": batch["attention_mask"].flip(1),
    }
    ahead = [group["input_ids"] for group in of_equal_length(batch)]
    behind = [group["input_ids"].flip(1) for group in of_equal_length(turned)]
    assert all(torch.equal(one, other) for one, other in zip(ahead, behind, strict=True))


def test_the_model_is_as_it_was_and_no_hook_is_left(make_classifier, make_batch):
    model, batch = make_classifier(dropout=0.5).train(), make_batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = encoder_layers(model, nn.Linear)
    one, two = (input_moments(model, layers, [batch], "squares") for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in layers)  # no dropout
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in layers.values())


def test_no_text_leaves_early(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch()
    layers = encoder_layers(model, nn.Linear)
    expected = input_moments(model, layers, [batch], "squares")
    early = DeeBERT(threshold=float("inf"))
    found = input_moments(early.finish(early.prepare(model)), layers, [batch], "squares")
    assert all(torch.equal(found[name], expected[name]) for name in layers)


def test_a_layer_that_is_shared_sees_every_time_it_is_called(tiny_family):
    """ALBERT runs one layer several times."""
    family, calls = tiny_family("albert"), []
    layers = encoder_layers(family.model, nn.Linear)
    texts = ["the cat sat on the mat", "a dog"]
    see_inputs(family.model, layers, [family.batch(texts)], lambda name, x: calls.append((name, x.shape)))
    tokens = int(family.batch(texts)["attention_mask"].sum())
    of_queries = [shape[0] for name, shape in calls if name.endswith("query")]
    assert sum(of_queries) == 2 * tokens


def test_every_family_shows_what_its_layers_are_given(each_tiny_family):
    family = each_tiny_family
    layers = encoder_layers(family.model, nn.Linear)
    found = input_moments(family.model, layers, [family.batch(["the cat sat on the mat", "a dog"])], "outer")
    in_roles = {name for names in family.model.encoder.linear_roles().values() for name in names}
    assert in_roles <= set(found)
    assert all(found[name].shape == (layers[name].in_features,) * 2 for name in found)


def test_an_unknown_statistic_is_refused(make_classifier, make_batch):
    model = make_classifier()
    with pytest.raises(ValueError, match="what must be one of squares, outer, max, got 'mean'"):
        input_moments(model, encoder_layers(model, nn.Linear), [make_batch()], "mean")


def test_no_text_is_refused(make_classifier):
    model = make_classifier()
    with pytest.raises(ValueError, match="need texts to be seen, got none"):
        input_moments(model, encoder_layers(model, nn.Linear), [], "max")
