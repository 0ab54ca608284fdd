import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.inputs import input_moments
from effnlp.compression.pruning.semi_structured import SemiStructured, keep_in_groups
from effnlp.compression.pruning.surgeon import reconstruction_error
from effnlp.model.sparse import pack, stored_bytes
from effnlp.model.surgery import encoder_layers
from effnlp.peft.lora import LoRA

CRITERIA = ["magnitude", "wanda", "sparsegpt"]


def linears(model):
    return encoder_layers(model, nn.Linear)


def finished(make_classifier, batches, *settings, **more):
    return method.finish(SemiStructured(*settings, **more), make_classifier(), batches)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize(("kept", "group"), [(2, 4), (1, 4), (4, 8), (3, 16)])
def test_every_group_keeps_exactly_so_many(make_classifier, make_batch, kept, group, criterion):
    model = finished(make_classifier, [make_batch(16)], kept, group, criterion)
    for layer in linears(model).values():
        groups = layer.weight.view(-1, group)
        assert ((groups != 0).sum(1) == kept).all()
    told = model.applied["compression/pruning"]
    assert told["sparsity"] == 1 - kept / group
    assert (told["kept_of_group"], told["group"]) == (kept, group)


def test_the_highest_of_a_group_stay_and_ties_leave_exact_counts():
    scores = torch.tensor(
        [[4.0, 1.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0], [9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 1.0, 2.0]]
    )
    expected = [[1, 0, 1, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 1, 0, 1]]
    assert keep_in_groups(scores, 2, 4).int().tolist() == expected


def test_groups_run_along_the_inputs_of_a_layer():
    weight = torch.arange(32.0).view(4, 8)
    kept = keep_in_groups(weight, 1, 4)
    assert kept.nonzero().tolist() == [[row, column] for row in range(4) for column in (3, 7)]


@pytest.mark.parametrize("criterion", ["magnitude", "wanda"])
def test_what_is_kept_is_unchanged(make_classifier, make_batch, criterion):
    before = make_classifier()
    model = finished(make_classifier, [make_batch()], criterion=criterion)
    for name, layer in linears(model).items():
        dense = before.encoder.get_submodule(name).weight
        assert torch.equal(layer.weight[layer.weight != 0], dense[layer.weight != 0])


def test_repaired_outputs_are_nearer_than_those_by_wanda_and_these_than_those_by_magnitude_on_average(
    make_classifier, make_batch
):
    dense, batches = make_classifier(), [make_batch(32, seed=seed) for seed in range(3)]
    hessians = input_moments(dense, linears(dense), batches, "outer")

    def error(criterion):
        model = finished(make_classifier, batches, criterion=criterion)
        return sum(
            reconstruction_error(dense.encoder.get_submodule(name).weight, layer.weight, hessian)
            for (name, layer), hessian in zip(linears(model).items(), hessians.values(), strict=True)
        )

    by_magnitude, by_wanda, repaired = map(error, CRITERIA)
    assert repaired < by_wanda < by_magnitude


def test_two_of_four_are_stored_as_values_and_indices_of_two_bits(make_classifier, make_batch):
    model = finished(make_classifier, [make_batch()])
    for layer in linears(model).values():
        entries = layer.weight.numel()
        values, indices = entries // 2 * 4, entries // 2 * 2 // 8
        assert stored_bytes(pack({"weight": layer.weight.detach()})) == values + indices


def test_all_of_a_group_changes_nothing_and_says_so(make_classifier, make_batch):
    model = finished(make_classifier, [make_batch()], 4, 4)
    assert torch.equal(model(make_batch()), make_classifier()(make_batch()))
    assert model.applied["compression/pruning"]["zeros"] == 0


def test_in_the_recovery_zeros_stay_and_the_rest_is_trained_on(fit, make_classifier, make_batch):
    chosen = SemiStructured(recovery=0.4)
    model = chosen.prepare(make_classifier())
    batches = [make_batch(seed=seed) for seed in range(10)]
    fit(model, batches, 2, chosen.callbacks(), epochs=1)
    assert not any((layer.weight == 0).any() for layer in linears(model).values())
    fit(model, batches, 2, chosen.callbacks(), resume=True)
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    for layer in linears(model).values():
        assert ((layer.weight.view(-1, 4) != 0).sum(1) == 2).all()
    chosen.finish(model)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    assert method.settled_after([chosen]) == pytest.approx(0.6)


def test_magnitude_needs_no_texts_and_the_others_do(make_classifier):
    assert method.texts_wanted([SemiStructured()]) == 0
    method.finish(SemiStructured(), make_classifier())
    for criterion in CRITERIA[1:]:
        chosen = SemiStructured(criterion=criterion, calibration_texts=7)
        assert method.texts_wanted([chosen]) == 7
        with pytest.raises(ValueError, match="there are no texts for it"):
            method.finish(chosen, make_classifier())
        with pytest.raises(ValueError, match=f"criterion={criterion} has seen no texts"):
            chosen.finish(make_classifier())


def test_a_group_that_does_not_divide_a_layer_is_refused_before_the_training(make_classifier):
    with pytest.raises(
        ValueError, match="group must divide the width of every layer, got 5 for the 32 inputs of"
    ):
        SemiStructured(2, 5).prepare(make_classifier())
    with pytest.raises(ValueError, match="group must divide the 6 weights of a row, got 4"):
        keep_in_groups(torch.ones(2, 6), 2, 4)


def test_a_recovery_beside_frozen_weights_is_refused(make_classifier):
    with pytest.raises(
        ValueError, match=r"recovery trains what is left .*weight is frozen by another method"
    ):
        method.prepare([LoRA(), SemiStructured(recovery=0.2)], make_classifier())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kept": 0}, "kept must be from 1 to group=4, got 0"),
        ({"kept": 5}, "kept must be from 1 to group=4, got 5"),
        ({"criterion": "wonda"}, "criterion must be one of magnitude, wanda, sparsegpt, got 'wonda'"),
        ({"recovery": 1.0}, r"recovery must be in \[0, 1\), got 1.0"),
        ({"recovery": 0.2, "criterion": "wanda"}, r"recovery=0.2 needs criterion=magnitude"),
        ({"calibration_texts": 0}, "calibration_texts must be at least 1, got 0"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        SemiStructured(**settings)
