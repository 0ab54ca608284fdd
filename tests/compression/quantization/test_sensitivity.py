import itertools

import pytest
import torch
from torch import nn

from effnlp.compression.quantization import sensitivity
from effnlp.compression.quantization.sensitivity import divergence, hessian_traces, loss_increases
from effnlp.model.surgery import encoder_layers


class TwoLayers(nn.Module):
    """Small enough for its whole Hessian: embeddings, tanh, a linear layer; C outputs."""

    def __init__(self, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.ModuleDict({"table": nn.Embedding(4, 3), "linear": nn.Linear(3, outputs)})

    def forward(self, batch):
        return self.encoder["linear"](self.encoder["table"](batch["input_ids"]).sum(1).tanh())


BATCH = {"input_ids": torch.tensor([[0, 1, 1], [3, 0, 0]])}


def hessian_of_divergence(model, name):
    """The whole Hessian of the mean divergence by one layer's weight, by differentiating twice."""
    reference = model(BATCH).detach()

    def loss(weight):
        logits = torch.func.functional_call(model, {f"encoder.{name}.weight": weight}, (BATCH,))
        return divergence(logits, reference) / len(reference)

    weight = model.encoder[name].weight
    return torch.autograd.functional.hessian(loss, weight).view(weight.numel(), -1)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_over_all_signs_the_mean_is_the_trace_of_the_hessian(outputs, monkeypatch):
    model = TwoLayers(outputs)
    layers = encoder_layers(model, nn.Linear, nn.Embedding)
    every = [torch.tensor(s).view(2, outputs) for s in itertools.product([0, 1], repeat=2 * outputs)]
    drawn = iter(every)
    monkeypatch.setattr(sensitivity.torch, "randint", lambda *_, **__: next(drawn))
    found = hessian_traces(model, layers, [BATCH], len(every), torch.Generator())
    for name in layers:
        assert found[name] == pytest.approx(float(hessian_of_divergence(model, name).trace()), rel=1e-4)
        assert found[name] > 0


def test_the_more_probes_the_nearer_is_the_estimate(make_classifier, make_batch):
    model, batches = make_classifier(), [make_batch(8)]
    layers = encoder_layers(model, nn.Linear, nn.Embedding)

    def estimate(probes, seed):
        made = hessian_traces(model, layers, batches, probes, torch.Generator().manual_seed(seed))
        return torch.tensor(list(made.values()))

    exact = estimate(100, 99)
    errors = [(torch.stack([estimate(n, s) for s in range(6)]) / exact - 1).square().mean() for n in (1, 9)]
    assert errors[1] < errors[0] / 3
    assert torch.equal(estimate(2, 5), estimate(2, 5))


def test_the_increase_of_a_small_change_is_what_the_hessian_says():
    model, generator = TwoLayers(3).double(), torch.Generator().manual_seed(3)
    layers = encoder_layers(model, nn.Linear, nn.Embedding)
    for name, layer in layers.items():
        change = torch.randn(layer.weight.shape, generator=generator).double() * 0.01
        found = loss_increases(model, {name: layer}, [BATCH], [change.add, lambda w: w])[name]
        flat = change.flatten()
        assert found[0] == pytest.approx(
            float(flat @ hessian_of_divergence(model, name) @ flat) / 2, rel=0.05
        )
        assert found[1] == pytest.approx(0, abs=1e-12)


def test_answers_that_are_numbers_move_by_half_the_squared_difference():
    assert float(divergence(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]]))) == 2.5
    assert float(divergence(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))) == 2.5


def test_the_model_is_left_as_it_was(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch()
    frozen = model.encoder.get_submodule("layers.0.feedforward.up").weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = encoder_layers(model, nn.Linear)
    hessian_traces(model, layers, [batch], 1, torch.Generator())
    loss_increases(model, layers, [batch], [torch.zeros_like])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not frozen.requires_grad
    assert sum(not p.requires_grad for p in model.parameters()) == 1
    assert all(p.grad is None for p in model.parameters())


def test_without_texts_it_is_refused():
    with pytest.raises(ValueError, match="measured on texts, got none"):
        loss_increases(TwoLayers(2), {}, [], [])
