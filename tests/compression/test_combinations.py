"""Methods together, in the order in which a run applies them."""

import pandas as pd
import torch
from torch import nn

from effnlp import method
from effnlp.compression.early_exit.deebert import DeeBERT
from effnlp.compression.pruning.magnitude import prune_by_magnitude
from effnlp.compression.pruning.movement import Movement
from effnlp.compression.quantization.int8_dynamic import quantize_dynamically
from effnlp.compression.quantization.int8_weight_only import Int8WeightOnly
from effnlp.compression.quantization.integer import Int8Embedding, Int8Linear
from effnlp.compression.quantization.products import DynamicInt8Linear
from effnlp.model.bag_of_ngrams import BagOfNgrams
from effnlp.model.sparse import pack, stored_bytes
from effnlp.peft.bitfit import BitFit
from effnlp.peft.lora import LoRA, LoRALinear


def bytes_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_lora_on_an_integer_base_learns_and_leaves_the_base_alone(make_classifier, make_batch, take_steps):
    methods = [Int8WeightOnly(moment="prepare"), LoRA()]
    model = method.prepare(methods, make_classifier())
    before = bytes_of(model)
    losses = take_steps(model, make_batch(), steps=60, rate=1e-2)
    assert losses[-1] < 0.5 * losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.endswith((".a", ".b")) or name.startswith("head.")}
    assert any(value.dtype == torch.int8 for value in before.values())


def test_lora_on_an_integer_base_stays_beside_it_to_the_end(make_classifier, make_batch, take_steps):
    base, lora, batch = Int8WeightOnly(moment="prepare"), LoRA(), make_batch()
    model = method.prepare([base, lora], make_classifier())
    take_steps(model, batch, steps=3)
    logits = model(batch)
    for each in (lora, base):
        model = method.finish(each, model)
    assert torch.equal(model(batch), logits)
    kept = [m for m in model.modules() if isinstance(m, LoRALinear)]
    assert len(kept) == 6
    assert all(isinstance(layer.base, Int8Linear) for layer in kept)
    assert model.applied["peft"] == {"layers": 6, "merged_layers": 0}


def test_bitfit_on_an_integer_base_trains_its_biases(make_classifier, make_batch, take_steps):
    model = method.prepare([Int8WeightOnly(moment="prepare"), BitFit()], make_classifier())
    before = bytes_of(model)
    losses = take_steps(model, make_batch(), steps=10)
    assert losses[-1] < losses[0]
    after = model.state_dict()
    up = "encoder.layers.0.feedforward.up"
    assert not torch.equal(after[f"{up}.bias"], before[f"{up}.bias"])
    assert torch.equal(after[f"{up}.integers"], before[f"{up}.integers"])


def test_merged_then_rounded_and_a_change_beside_a_rounded_base_both_stay_near_the_float_model(
    make_classifier, make_batch, take_steps
):
    batch = make_batch(32)
    trained = LoRA().prepare(make_classifier())
    take_steps(trained, batch, steps=30)
    change = {name: value for name, value in trained.state_dict().items() if name.endswith((".a", ".b"))}
    head = {name: value for name, value in trained.state_dict().items() if name.startswith("head.")}
    logits = trained(batch)

    beside = method.prepare([Int8WeightOnly(moment="prepare"), LoRA()], make_classifier())
    beside.load_state_dict({**beside.state_dict(), **change, **head})
    merged = Int8WeightOnly().finish(LoRA().finish(trained))
    for model in (beside, merged):
        error = (model(batch) - logits).square().mean() / logits.square().mean()
        assert 0 < error < 10**-3  # 30 dB


def test_zeros_of_pruning_stay_zeros_in_integers_and_save_bytes(make_classifier):
    model = prune_by_magnitude(make_classifier(), sparsity=0.8)
    zeros = {
        name: layer.weight == 0
        for name, layer in model.encoder.named_modules()
        if isinstance(layer, nn.Linear)
    }
    quantize_dynamically(model)
    assert len(zeros) == 18
    for name, mask in zeros.items():
        layer = model.encoder.get_submodule(name)
        assert isinstance(layer, DynamicInt8Linear)
        assert (layer.integers[mask] == 0).all()
    only_rounded = quantize_dynamically(make_classifier())
    assert stored_bytes(pack(model.state_dict())) < 0.8 * stored_bytes(pack(only_rounded.state_dict()))


def test_movement_then_integers_keeps_the_final_sparsity(make_classifier):
    movement = Movement(sparsity=0.7)
    model = movement.prepare(make_classifier())
    for module in model.modules():
        if hasattr(module, "scores"):
            nn.init.normal_(module.scores)
    model = quantize_dynamically(movement.finish(model))
    layers = [m for m in model.encoder.modules() if isinstance(m, DynamicInt8Linear)]
    assert all((layer.integers == 0).float().mean() >= 0.69 for layer in layers)
    assert set(model.applied) == {"compression/pruning", "compression/quantization"}


def test_early_exit_works_with_integer_layers(make_classifier, make_batch):
    deebert, batch = DeeBERT(threshold=0.9), make_batch(32)
    model = deebert.finish(deebert.prepare(make_classifier(depth=4)))
    for exit_head in model.exits:
        nn.init.normal_(exit_head.weight, std=0.4)
    before, depths = model(batch), model.last_depths
    quantize_dynamically(model)
    assert [m for m in model.encoder.modules() if isinstance(m, Int8Embedding)]
    assert all(isinstance(exit_head, nn.Linear) for exit_head in model.exits)
    after = model(batch)
    same = model.last_depths == depths
    assert same.float().mean() > 0.8
    assert len(depths.unique()) > 1
    assert (after - before)[same].abs().max() < 0.1


def test_early_exit_with_lora_trains_the_change_first_and_the_exits_then(
    make_classifier, make_batch, loss_of, fit
):
    lora, deebert = LoRA(), DeeBERT(first_phase=0.5)
    model = method.prepare([lora, deebert], make_classifier(depth=3))
    start = bytes_of(model)
    states = []
    batches = [make_batch(16, seed=seed) for seed in range(10)]
    loss = method.objective([lora, deebert], loss_of)
    for resume in (False, True):
        fit(model, batches, 2, deebert.callbacks(), loss, epochs=2 if resume else 1, resume=resume)
        states.append(bytes_of(model))

    def moved(before, after):
        return {name for name, value in after.items() if not torch.equal(value, before[name])}

    change = {name for name in start if name.endswith((".a", ".b"))} | {"head.weight", "head.bias"}
    assert moved(start, states[0]) == change
    assert moved(states[0], states[1]) == {name for name in start if name.startswith("exits.")}

    batch = make_batch(8, seed=99)
    logits = deebert.finish(model)(batch)
    merged = lora.finish(model)
    assert not [m for m in merged.modules() if isinstance(m, LoRALinear)]
    torch.testing.assert_close(merged(batch), logits, rtol=0, atol=1e-5)


def test_bytes_fall_in_the_order_none_rounded_pruned_and_rounded(make_classifier):
    sizes = [
        stored_bytes(pack(model.state_dict()))
        for model in (
            make_classifier(width=64),
            quantize_dynamically(make_classifier(width=64)),
            quantize_dynamically(prune_by_magnitude(make_classifier(width=64), 0.9)),
        )
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.6 * sizes[1] < 0.3 * sizes[0]


def test_the_table_of_the_bag_of_ngrams_in_int8_gives_nearly_the_same_logits():
    texts = ["the cat sat on the mat", "a dog ran", "the dog sat", "a cat ran on the mat", ""] * 2
    choice = BagOfNgrams()
    tokenizer = choice.tokenizer(pd.DataFrame({"text": texts, "label": [0] * len(texts)}))
    model = choice.build(tokenizer, classes=2).eval()
    batch = tokenizer.encode(texts).batch(range(len(texts)))
    before = model(batch)
    after = Int8WeightOnly().finish(model)(batch)
    torch.testing.assert_close(after, before, rtol=0, atol=0.02)
    assert isinstance(model.encoder.table, Int8Embedding)
    assert not torch.equal(after, before)
    assert torch.equal(after[4], before[4])  # the empty text: zero stays zero
