import copy
import itertools

import pytest
import torch

from effnlp import method
from effnlp.compression.elastic.dynabert import DynaBERT
from effnlp.compression.elastic.subnetworks import (
    Subnetwork,
    answer,
    carve,
    distance,
    kept_layers,
    masks_of,
    narrowed,
    readers_of,
    teaching_layers,
)
from effnlp.compression.quantization.int8_weight_only import Int8WeightOnly
from effnlp.data.encodings import Encodings
from effnlp.evaluation.example_flops import example_flops
from effnlp.model.classifier import count_params
from effnlp.peft.lora import LoRA

WIDTHS, DEPTHS = (0.25, 0.5, 0.75, 1.0), (0.5, 0.75, 1.0)
GRID = [Subnetwork(width, depth) for width, depth in itertools.product(WIDTHS, DEPTHS)]


def ranked(model, seed=0):
    """The model with gates whose groups matter in a random order."""
    model = DynaBERT().prepare(model)
    generator = torch.Generator().manual_seed(seed)
    for reader in readers_of(model).values():
        reader.importance.copy_(torch.rand(len(reader.importance), generator=generator))
    return model.eval()


def trained(chosen, model, fit, make_batch, loss_of, all_epochs=4, **more):
    batches = [make_batch(16, seed=seed) for seed in range(4)]
    loss = method.objective([chosen], loss_of)
    fit(model, batches, all_epochs, callbacks=chosen.callbacks(), objective=loss, **more)
    return model


@pytest.mark.parametrize("network", GRID, ids=lambda network: network.name)
def test_a_carved_network_answers_as_the_masked_one(network, make_classifier, make_batch):
    model, batch = ranked(make_classifier(depth=4)), make_batch()
    expected = answer(model, batch, network).logits
    carve(model, network)
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-5)


def test_a_carved_minilm_answers_as_the_masked_one(minilm):
    model, batch = ranked(minilm.model), minilm.batch(["a lovely film", "a dull film about a mat", "the mat"])
    for network in (Subnetwork(0.25, 0.5), Subnetwork(0.5, 0.75)):
        small = copy.deepcopy(model)
        said = carve(small, network)
        expected = answer(model, batch, network).logits
        torch.testing.assert_close(small(batch), expected, rtol=0, atol=1e-5)
        assert said["heads_removed"] == said["heads"] * (1 - network.width)
        assert said["units_removed"] == said["units"] * (1 - network.width)
        assert small.encoder.depth == {0.5: 3, 0.75: 4}[network.depth]


def test_the_whole_network_is_the_model_itself(make_classifier, make_batch):
    batch, expected = make_batch(), make_classifier()(make_batch())
    model = ranked(make_classifier())
    torch.testing.assert_close(answer(model, batch, Subnetwork(1.0, 1.0)).logits, expected, rtol=0, atol=1e-6)
    small = DynaBERT(width=1.0, depth=1.0).finish(model)
    torch.testing.assert_close(small(batch), expected, rtol=0, atol=1e-6)
    assert count_params(small) == count_params(make_classifier())
    said = method.applied(small)["compression/elastic"]
    assert (said["heads_removed"], said["units_removed"], said["layers_dropped"]) == (0, 0, 0)


def test_a_narrower_network_lies_inside_a_wider_one_and_has_what_matters_most(make_classifier):
    model = ranked(make_classifier(width=64))
    masks = [masks_of(model, width) for width in WIDTHS]
    for name, reader in readers_of(model).items():
        for narrow, wide in itertools.pairwise(masks):
            assert not (narrow[name] & ~wide[name]).any()
            left_out = reader.importance[~narrow[name]].tolist()
            assert all(reader.importance[narrow[name]].min() > other for other in left_out)
    units = [int(mask["layers.0.feedforward.down"].sum()) for mask in masks]
    assert units == [32, 64, 96, 128]


def test_what_is_narrowed_is_whole_again_after_it_and_after_an_error(make_classifier, make_batch):
    model, batch = ranked(make_classifier()), make_batch()
    expected = model(batch)
    with narrowed(model, 0.25):
        assert not torch.equal(model(batch), expected)
    assert torch.equal(model(batch), expected)
    with pytest.raises(KeyError, match="input_ids"):
        answer(model, {"attention_mask": batch["attention_mask"]}, Subnetwork(0.25, 1.0))
    assert torch.equal(model(batch), expected)


@pytest.mark.parametrize(
    ("depth", "layers", "kept", "taught"),
    [
        (0.5, 12, [0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]),
        (0.75, 12, [0, 1, 2, 4, 5, 6, 8, 9, 10], [0, 1, 3, 4, 5, 7, 8, 9, 11]),
        (1.0, 3, [0, 1, 2], [0, 1, 2]),
        (0.1, 3, [0], [2]),
        (0.3, 10, [0, 3, 6], [2, 5, 9]),
    ],
)
def test_layers_that_go_are_spread_over_the_model(depth, layers, kept, taught):
    assert kept_layers(depth, layers) == kept
    assert teaching_layers(depth, layers) == taught


@pytest.mark.parametrize("layers", range(1, 13))
def test_any_share_of_the_layers_names_different_ones(layers):
    for share in torch.linspace(0.01, 1, 100).tolist():
        kept = kept_layers(share, layers)
        assert kept == sorted(set(kept))
        assert kept[0] == 0
        assert kept[-1] < layers
        assert len(kept) == max(1, round(share * layers))
        assert len(teaching_layers(share, layers)) == len(kept)


def test_the_whole_network_is_no_distance_from_itself_and_padding_has_none(make_classifier, make_batch):
    model, batch = ranked(make_classifier()), make_batch()
    whole, half = (answer(model, batch, Subnetwork(width, 1.0)) for width in (1.0, 0.5))
    assert distance(whole, whole, 1.0) == 0
    expected = distance(half, whole, 1.0)
    assert expected > 0
    mask = batch["attention_mask"].bool()
    by_hand = [
        (ours[mask] - theirs[mask]).square().mean()
        for ours, theirs in zip(half.states, whole.states, strict=True)
    ]
    torch.testing.assert_close(expected, torch.stack(by_hand).mean())


def test_first_the_whole_model_learns_then_widths_then_depths_too():
    chosen = DynaBERT(full_phase=0.3, width_phase=0.3, networks_per_step=2)
    turns = [chosen.turns(step, 100) for step in range(100)]
    assert all(not turn for turn in turns[:30])
    assert {n for turn in turns[30:60] for n in turn} == {n for n in GRID if n.depth == 1 and n.width < 1}
    assert {n for turn in turns[60:] for n in turn} == {n for n in GRID if not n.is_whole}
    assert all(len(set(turn)) == 2 for turn in turns[30:])
    every = DynaBERT(networks_per_step=None)
    assert len(every.turns(99, 100)) == 11


def test_networks_in_turns_learn_equally_often():
    chosen = DynaBERT(full_phase=0.01, width_phase=0.0, networks_per_step=3)
    turns = [n for step in range(1, 12) for n in chosen.turns(step, 12)]
    assert {turns.count(n) for n in GRID if not n.is_whole} == {3}


def test_the_loss_of_the_first_part_is_that_of_the_labels(make_classifier, make_batch, loss_of):
    chosen, batch = DynaBERT(), make_batch()
    model = chosen.prepare(make_classifier()).train()
    chosen.advance(model, 0, 10)
    assert torch.equal(chosen.objective(loss_of)(model, batch), loss_of(model, batch))
    chosen.advance(model, 9, 10)
    assert chosen.objective(loss_of)(model, batch) > loss_of(model, batch)


def test_smaller_networks_do_not_teach_the_whole_one_what_to_answer(make_classifier, make_batch, loss_of):
    """What they learn from is constant: with the loss of the labels at zero, only they are moved."""
    chosen, batch = DynaBERT(networks_per_step=1), make_batch()
    model = ranked(make_classifier()).train()
    chosen.advance(model, 6, 10)
    (network,) = chosen._learning
    mask = masks_of(model, network.width)["layers.0.feedforward.down"]
    assert not mask.all()
    chosen.objective(lambda model, _: model.head.weight.sum() * 0)(model, batch).backward()
    up = model.encoder.layers[0].feedforward.up.weight.grad
    assert (up[~mask] == 0).all()
    assert (up[mask] != 0).any()


def test_small_networks_come_to_agree_with_the_whole_one(make_classifier, make_batch, fit, loss_of):
    def disagreement(chosen):
        torch.manual_seed(0)
        model = trained(chosen, chosen.prepare(make_classifier()), fit, make_batch, loss_of, all_epochs=12)
        batch = make_batch(16, seed=0)
        with torch.no_grad():
            whole, small = (
                answer(model, batch, n).logits.softmax(1) for n in (Subnetwork(1, 1), Subnetwork(0.25, 0.5))
            )
        return float((whole - small).abs().mean())

    alone = disagreement(DynaBERT(full_phase=0.999, width_phase=0.0))
    assert disagreement(DynaBERT(full_phase=0.2, width_phase=0.2, networks_per_step=3)) < 0.5 * alone


def test_importances_are_learned_in_the_first_part_alone(make_classifier, make_batch, take_steps, loss_of):
    chosen, batch = DynaBERT(), make_batch(16)
    model = chosen.prepare(make_classifier())
    loss = chosen.objective(loss_of)

    def importance():
        return torch.cat([reader.importance for reader in readers_of(model).values()])

    chosen.advance(model, 2, 10)
    take_steps(model, batch, steps=1, objective=loss)
    learned = importance()
    assert (learned > 0).any()
    for step in (3, 9):
        chosen.advance(model, step, 10)
        take_steps(model, batch, steps=1, objective=loss)
        assert torch.equal(importance(), learned)


def test_a_training_that_is_taken_up_again_ends_as_one_that_was_not_stopped(
    make_classifier, make_batch, fit, loss_of
):
    def start():
        chosen = DynaBERT()
        return chosen, chosen.prepare(make_classifier())

    chosen, whole = start()
    trained(chosen, whole, fit, make_batch, loss_of)
    chosen, half = start()
    trained(chosen, half, fit, make_batch, loss_of, epochs=2)
    chosen, rest = start()
    trained(chosen, rest, fit, make_batch, loss_of, resume=True)
    assert {name: value.tolist() for name, value in rest.state_dict().items()} == {
        name: value.tolist() for name, value in whole.state_dict().items()
    }


def test_each_network_of_the_grid_can_be_taken_from_one_training(make_classifier):
    encodings = Encodings.from_lists([list(range(1, n)) for n in (4, 9, 14)], pad_id=0)
    chosen, model = DynaBERT(), ranked(make_classifier())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = {
        name: (example_flops(variant, encodings, 1)[0], count_params(variant))
        for name, variant in chosen.variants(model)
    }
    assert set(found) == {f"elastic/{network.name}" for network in GRID}
    for narrow, wide in itertools.pairwise(WIDTHS[1:]):
        ours, theirs = (found[f"elastic/{Subnetwork(width, 1.0).name}"] for width in (narrow, wide))
        assert ours[0] < theirs[0]
        assert ours[1] < theirs[1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not list(DynaBERT(grid=False).variants(model))


def test_the_record_has_every_network_of_the_grid_and_the_one_that_is_deployed(run_tiny):
    record = run_tiny(
        "model=backbone", "compression/elastic=dynabert", "compression.elastic.widths=[0.5,1.0]",
        "compression.elastic.depths=[0.5,1.0]", "compression/quantization=int8_weight_only",
    )  # fmt: skip
    assert record.status == "completed", record.message
    networks = {key.split("/")[1] for key in record.values if key.startswith("elastic/")}
    assert networks == {f"width_{w}_depth_{d}" for w in ("0.5", "1") for d in ("0.5", "1")}
    for network in networks:
        assert 0 <= record.values[f"elastic/{network}/accuracy"] <= 1
    assert record.values["elastic/width_0.5_depth_1/params"] == record.values["model/params"]
    sizes = [record.values[f"elastic/width_{w}_depth_{d}/flops"] for w in ("0.5", "1") for d in ("0.5", "1")]
    assert sizes[0] == min(sizes)
    assert sizes[3] == max(sizes)
    assert record.values["evaluation/elastic/flops"] > 0
    assert record.notes["applied"]["compression/elastic"]["units_removed"] == 512


def test_lora_learns_in_all_networks_and_integers_come_after(make_classifier, make_batch, fit, loss_of):
    methods = [LoRA(rank=2), DynaBERT()]
    model = method.prepare(methods, make_classifier())
    trained(methods[1], model, fit, make_batch, loss_of)
    batch = make_batch()
    expected = answer(model, batch, Subnetwork(0.5, 1.0)).logits
    for each in methods:
        model = method.finish(each, model)
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-5)
    assert Int8WeightOnly().finish(model)(batch).isfinite().all()


def test_numbers_are_learned_as_classes_are(make_batch):
    from effnlp.model.backbone import BackboneEncoder, Size
    from effnlp.model.classifier import Classifier
    from effnlp.model.mixer.attention import Attention

    torch.manual_seed(0)
    size = Size(depth=2, width=32, heads=2, feedforward_width=64)
    model = Classifier(BackboneEncoder(size, Attention, 60, max_length=24, dropout=0.0), 1)
    batch = make_batch()
    batch["labels"] = batch["labels"].float()
    chosen = DynaBERT(networks_per_step=None, hidden_weight=0.0)
    model = ranked(model).train()
    chosen.advance(model, 9, 10)
    loss = chosen.objective(lambda model, batch: model(batch).sum() * 0)(model, batch)
    with torch.no_grad():
        whole = answer(model, batch, Subnetwork(1, 1)).logits
        others = [answer(model, batch, network).logits for network in chosen._learning]
    torch.testing.assert_close(
        loss, torch.stack([(other - whole).square().mean() for other in others]).mean()
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0.3}, r"width must be one of widths=\[0.25, 0.5, 0.75, 1.0\], got 0.3"),
        ({"depth": 0.25}, r"depth must be one of depths=\[0.5, 0.75, 1.0\], got 0.25"),
        ({"widths": [0.0, 0.5]}, r"widths must be shares in \(0, 1\], got \[0.0, 0.5\]"),
        ({"depths": []}, r"depths must be shares in \(0, 1\], got \[\]"),
        ({"full_phase": 0.0}, "full_phase must be above 0"),
        ({"full_phase": 0.5, "width_phase": 0.5}, "must leave steps for depths, got 0.5 and 0.5"),
        ({"networks_per_step": 0}, "networks_per_step must be at least 1, got 0"),
        ({"hidden_weight": -1.0}, "hidden_weight must be at least 0, got -1.0"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DynaBERT(**values)


def test_a_model_without_heads_or_layers_of_its_own_is_refused_before_the_training(
    tiny_family, make_classifier
):
    with pytest.raises(ValueError, match="heads of models of type 'mpnet' cannot be removed"):
        DynaBERT().check(tiny_family("mpnet").model)
    with pytest.raises(ValueError, match="it runs the same layer again and again"):
        DynaBERT().check(tiny_family("albert").model)
    with pytest.raises(ValueError, match="has no heads and units of which some could be left out"):
        DynaBERT().finish(make_classifier())
