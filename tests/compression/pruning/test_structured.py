import copy

import pytest
import torch

from effnlp import method
from effnlp.compression.pruning.gated_reader import MEMORY, GatedReader, gates_of
from effnlp.compression.pruning.groups import importances, masked
from effnlp.compression.pruning.schedule import Schedule
from effnlp.compression.pruning.structured import Structured
from effnlp.model.parts import heads_of, units_of
from effnlp.peft.lora import LoRA


def shape(model):
    layers = model.encoder.layers
    return [(block.mixer.heads, block.feedforward.up.out_features) for block in layers]


def left(model):
    """Fraction of the groups of each kind whose gates are open."""
    found = {}
    for kind, parts in (("heads", heads_of(model)), ("units", units_of(model))):
        masks = torch.cat([gate.mask for gate in gates_of(model, parts).values()])
        found[kind] = float(masks.float().mean())
    return found


def trained(model, chosen, fit, make_batch, epochs=4, **more):
    batches = [make_batch(16, seed=seed) for seed in range(4)]
    fit(model, batches, epochs, callbacks=chosen.callbacks(), **more)
    return model


def test_both_kinds_are_removed_to_their_own_fraction(make_classifier, make_batch, fit):
    chosen = Structured(heads=0.5, feedforward=0.75)
    model = trained(chosen.prepare(make_classifier()), chosen, fit, make_batch)
    model = chosen.finish(model)
    assert shape(model) == [(1, 16)] * 3
    assert not any(isinstance(module, GatedReader) for module in model.modules())
    assert method.applied(model)["compression/pruning"] == {
        "heads": 6, "heads_removed": 3, "heads_sparsity": 0.5,
        "units": 192, "units_removed": 144, "units_sparsity": 0.75,
    }  # fmt: skip


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_what_was_validated_is_what_is_cut(scope, make_classifier, make_batch, fit):
    chosen, batch = Structured(scope=scope), make_batch()
    model = trained(chosen.prepare(make_classifier()), chosen, fit, make_batch)
    assert left(model) == {"heads": 0.5, "units": 0.5}
    before = model(batch)
    small = chosen.finish(copy.deepcopy(model))
    torch.testing.assert_close(small(batch), before, rtol=0, atol=1e-5)


def test_the_gates_follow_the_schedule_and_never_open_again(make_classifier, make_batch, take_steps):
    chosen, batch = Structured(warmup=0.2, cooldown=0.2, update_every=1), make_batch(16)
    model, schedule = chosen.prepare(make_classifier()), Schedule("gradual", 0.2, 0.2, 1)
    before = {name: mask.clone() for name, mask in model.named_buffers() if name.endswith("mask")}
    for step in range(1, 21):
        take_steps(model, batch, steps=1)
        chosen.advance(model, step, 20)
        expected = schedule.sparsity_at(step, 20, 0.5)
        assert left(model)["units"] == pytest.approx(1 - round(expected * 64) / 64)
        now = {name: mask.clone() for name, mask in model.named_buffers() if name.endswith("mask")}
        assert all(not (mask & ~before[name]).any() for name, mask in now.items())
        before = now
    assert left(model) == {"heads": 0.5, "units": 0.5}


def test_one_training_step_teaches_the_importance_of_its_texts(make_classifier, make_batch, loss_of):
    chosen, batch = Structured(), make_batch(8)
    model = chosen.prepare(make_classifier()).train()
    expected = importances(copy.deepcopy(make_classifier()), units_of(make_classifier()), [batch], {})
    loss_of(model, batch).backward()
    for name, gate in gates_of(model, units_of(model)).items():
        # The mean loss of 8 texts has an eighth of the gradient of each.
        seen = gate.importance.double() / (1 - MEMORY) * 8
        torch.testing.assert_close(seen, expected[name], rtol=1e-4, atol=1e-8)


def test_gates_are_closed_as_masks_are(make_classifier, make_batch):
    chosen, batch = Structured(), make_batch()
    model = chosen.prepare(make_classifier()).eval()
    masks = {}
    for index, (name, gate) in enumerate(gates_of(model, units_of(model)).items()):
        gate.mask[: 10 * (index + 1)] = False
        masks[name] = gate.mask
    reference = make_classifier()
    with masked(reference, units_of(reference), masks):
        torch.testing.assert_close(model(batch), reference(batch), rtol=0, atol=1e-6)


def test_a_training_that_is_taken_up_again_ends_as_one_that_was_not_stopped(make_classifier, make_batch, fit):
    def start():
        chosen = Structured(update_every=3)
        return chosen, chosen.prepare(make_classifier())

    chosen, whole = start()
    trained(whole, chosen, fit, make_batch)
    chosen, half = start()
    batches = [make_batch(16, seed=seed) for seed in range(4)]
    fit(half, batches, 4, callbacks=chosen.callbacks(), epochs=2)
    chosen, rest = start()
    fit(rest, batches, 4, callbacks=chosen.callbacks(), resume=True)
    assert {name: value.tolist() for name, value in rest.state_dict().items()} == {
        name: value.tolist() for name, value in whole.state_dict().items()
    }


def test_in_one_shot_training_is_left_alone_and_its_importances_used(make_classifier, make_batch, fit):
    chosen = Structured(schedule="one_shot")
    model = trained(chosen.prepare(make_classifier()), chosen, fit, make_batch, epochs=1)
    assert left(model) == {"heads": 1.0, "units": 1.0}
    importance = gates_of(model, units_of(model))["layers.0.feedforward.down"].importance
    up = model.encoder.layers[0].feedforward.up.weight.detach().clone()
    model = chosen.finish(model)
    kept = importance.argsort(descending=True)[:32].sort().values
    assert torch.equal(model.encoder.layers[0].feedforward.up.weight, up[kept])


def test_what_no_text_has_taught_is_told_by_its_weights(make_classifier):
    chosen, model = Structured(heads=0.0), make_classifier()
    with torch.no_grad():
        model.encoder.layers[0].feedforward.down.weight[:, ::2] *= 1e-3
    up = model.encoder.layers[0].feedforward.up.weight.detach().clone()
    model = chosen.finish(chosen.prepare(model))
    assert torch.equal(model.encoder.layers[0].feedforward.up.weight, up[1::2])


def test_a_frozen_base_learns_by_lora_what_to_lose(make_classifier, make_batch, fit):
    methods = [LoRA(rank=2), Structured()]
    model = method.prepare(methods, make_classifier())
    frozen = model.encoder.layers[0].feedforward.up.weight.clone()
    trained(model, methods[1], fit, make_batch)
    assert torch.equal(model.encoder.layers[0].feedforward.up.weight, frozen)
    batch, before = make_batch(), model(make_batch())
    for each in methods:
        model = method.finish(each, model)
    assert shape(model) == [(1, 32)] * 3
    torch.testing.assert_close(model(batch), before, rtol=0, atol=1e-5)


def test_a_fraction_of_zero_leaves_its_kind_alone(make_classifier, tiny_family):
    model = Structured(heads=0.0).prepare(make_classifier())
    assert not gates_of(model, heads_of(model))
    assert len(gates_of(model, units_of(model))) == 3
    mpnet = Structured(heads=0.0).prepare(tiny_family("mpnet").model)
    assert len(gates_of(mpnet, units_of(mpnet))) == 2


def test_minilm_is_cut_to_half_and_answers_as_with_its_gates(minilm, take_steps):
    chosen = Structured(scope="global")
    batch = minilm.batch(["a lovely film", "a dull film", "the mat"], [1, 0, 0])
    model = chosen.prepare(minilm.model)
    take_steps(model, batch, steps=1, rate=1e-4)
    chosen.advance(model, 100, 100)
    expected = model(batch)
    before = sum(parameter.numel() for parameter in model.encoder.model.encoder.parameters())
    model = chosen.finish(model)
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-5)
    after = sum(parameter.numel() for parameter in model.encoder.model.encoder.parameters())
    of_heads = 36 * (3 * 32 * 385 + 32 * 384)
    of_units = 3 * 1536 * (385 + 384)
    assert before - after == of_heads + of_units


def test_what_cannot_be_done_is_refused_before_the_training(make_classifier, tiny_family):
    with pytest.raises(ValueError, match=r"would remove all 2 groups that .* at most 0\.5"):
        Structured(heads=0.9).prepare(make_classifier())
    with pytest.raises(ValueError, match="heads of models of type 'mpnet' cannot be removed"):
        Structured().prepare(tiny_family("mpnet").model)
    with pytest.raises(ValueError, match=r"feedforward: sparsity must be in \[0, 1\), got 1\.5"):
        Structured(feedforward=1.5)
    with pytest.raises(ValueError, match="nothing to prune: Classifier has heads without gates"):
        Structured().finish(make_classifier())
