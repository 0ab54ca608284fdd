"""What is true of every adapter, wherever it stands and whatever is wrapped around it."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from effnlp import method
from effnlp.compression.early_exit.deebert import DeeBERT
from effnlp.compression.quantization.int8_weight_only import Int8WeightOnly
from effnlp.model.classifier import count_params
from effnlp.model.surgery import replace_layers
from effnlp.peft.adapter import ACTIVATIONS, AdaptedLinear, Bottleneck, dense_bottleneck
from effnlp.peft.compacter import Compacter
from effnlp.peft.houlsby_adapter import HoulsbyAdapter
from effnlp.peft.lora import LoRA, LoRALinear
from effnlp.peft.pfeiffer_adapter import PfeifferAdapter

METHODS = [HoulsbyAdapter, PfeifferAdapter, Compacter]
every_method = pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)


def randomise(model, seed=0):
    """Give every adapter values, as training does; its last layer starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, AdaptedLinear):
                for parameter in module.adapter.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def adapters(model):
    return [module for module in model.modules() if isinstance(module, AdaptedLinear)]


@every_method
def test_logits_are_bit_equal_before_training(kind, make_classifier, make_batch):
    batch, model = make_batch(), make_classifier()
    before = model(batch)
    prepared = kind().prepare(model)
    assert adapters(prepared)
    assert torch.equal(prepared(batch), before)
    assert not torch.allclose(randomise(prepared)(batch), before, atol=0.01), "the adapters matter"


@every_method
def test_exactly_what_is_declared_receives_a_gradient_and_moves(
    kind, make_classifier, make_batch, take_steps
):
    model = kind().prepare(make_classifier())
    own = {name for name, _ in model.named_parameters() if ".adapter." in name or name.startswith("head.")}
    norms = {name for name, _ in model.named_parameters() if "norm." in name}
    expected = own if kind is PfeifferAdapter else own | norms
    assert norms
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == expected
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = take_steps(model, make_batch(), steps=10)
    assert losses[-1] < losses[0]
    now = dict(model.named_parameters())
    assert {name for name in now if not torch.equal(now[name], before[name])} == expected


@every_method
def test_finishing_leaves_the_adapters_and_says_that_none_is_merged(kind, make_classifier, make_batch):
    batch, model = make_batch(), randomise(kind().prepare(make_classifier()))
    before, count = model(batch), len(adapters(model))
    finished = kind().finish(model)
    assert torch.equal(finished(batch), before)
    assert finished.applied["peft"] == {"layers": count, "merged_layers": 0}
    assert count == (3 if kind is PfeifferAdapter else 6)


@every_method
def test_finishing_what_was_not_prepared_is_refused(kind, make_classifier):
    with pytest.raises(ValueError, match="nothing was inserted: Classifier has no adapter"):
        kind().finish(make_classifier())


@every_method
def test_what_was_trained_alone_loads_onto_another_prepared_base(
    kind, make_classifier, make_batch, take_steps
):
    """The delta: entries of the state dict that are trained; the base is not in it."""
    batch, model = make_batch(), kind().prepare(make_classifier())
    take_steps(model, batch, steps=3)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    delta = {name: value for name, value in model.state_dict().items() if name in names}
    fresh = kind().prepare(make_classifier())
    assert not torch.equal(fresh(batch), model(batch))
    fresh.load_state_dict(delta, strict=False)
    assert torch.equal(fresh(batch), model(batch))


@every_method
def test_a_copy_is_a_model_of_its_own(kind, make_classifier, make_batch):
    batch, model = make_batch(), randomise(kind().prepare(make_classifier()))
    before, copied = model(batch), copy.deepcopy(model)
    assert torch.equal(copied(batch), before)
    randomise(copied, seed=1)
    assert torch.equal(model(batch), before)
    assert not torch.equal(copied(batch), before)


@every_method
def test_it_works_on_a_pretrained_model(kind, minilm):
    batch = minilm.batch(["a good film", "dull and much, much too long"], [1, 0])
    before = minilm.model(batch)
    model = kind(width=24).prepare(minilm.model)
    assert torch.equal(model(batch), before)
    assert (randomise(model)(batch) - before).abs().max() > 1e-3
    assert len(adapters(model)) == (6 if kind is PfeifferAdapter else 12)


@every_method
def test_lora_around_an_adapter_merges_nothing_and_inside_of_one_merges(kind, make_classifier, make_batch):
    lora = LoRA(targets=["feedforward_down"])
    for first, second, merged in ((kind(), lora, 0), (lora, kind(), 3)):
        batch = make_batch()
        model = second.prepare(first.prepare(make_classifier()))
        assert torch.equal(model(batch), make_classifier()(batch))
        randomise(model)
        for module in model.modules():
            if isinstance(module, LoRALinear):
                nn.init.normal_(module.b, std=0.2)
        before = model(batch)
        finished = lora.finish(model)
        assert finished.applied["peft"] == {"layers": 3, "merged_layers": merged}
        assert sum(isinstance(module, LoRALinear) for module in finished.modules()) == 3 - merged
        torch.testing.assert_close(kind().finish(finished)(batch), before, rtol=0, atol=1e-5)


@every_method
def test_on_an_integer_base_it_starts_as_the_base_and_trains(kind, make_classifier, make_batch, take_steps):
    batch, base = make_batch(), Int8WeightOnly(moment="prepare").prepare(make_classifier())
    before = base(batch)
    model = kind().prepare(base)
    assert torch.equal(model(batch), before)
    integers = [buffer.clone() for buffer in model.buffers() if buffer.dtype == torch.int8]
    losses = take_steps(model, batch, steps=10)
    assert losses[-1] < losses[0]
    now = [buffer for buffer in model.buffers() if buffer.dtype == torch.int8]
    assert len(integers) == len(now) > 0
    assert all(torch.equal(a, b) for a, b in zip(integers, now, strict=True))


@every_method
def test_with_early_exit_a_text_that_never_leaves_gets_the_logits_of_the_whole(
    kind, make_classifier, make_batch
):
    batch = make_batch()
    whole = randomise(kind().prepare(make_classifier()))
    exits = DeeBERT(threshold=0.0)
    model = exits.prepare(randomise(kind().prepare(make_classifier())))
    finished = method.finish(exits, method.finish(kind(), model)).eval()
    torch.testing.assert_close(finished(batch), whole(batch), rtol=0, atol=1e-6)


def test_layers_that_are_one_get_one_adapter():
    """As in models that share their weights among layers: an adapter is counted and trained once."""
    shared, other = nn.Linear(6, 6), nn.Linear(6, 6)
    model = nn.ModuleDict({"a": shared, "b": shared, "c": other})
    replace_layers(model, [shared, other], lambda base: AdaptedLinear(base, dense_bottleneck(2, 6, "gelu")))
    assert model["a"] is model["b"]
    assert model["a"] is not model["c"]
    assert len(adapters(model)) == 2


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("width", [1, 5, 20])
def test_an_adapted_layer_agrees_with_the_equation_of_the_paper(activation, width):
    torch.manual_seed(0)
    layer = randomise(AdaptedLinear(nn.Linear(12, 20), dense_bottleneck(width, 20, activation)))
    x, one = torch.randn(7, 12), layer.adapter
    y = x @ layer.base.weight.T + layer.base.bias
    inner = y @ one.down.weight.T + one.down.bias
    bent = {
        "gelu": lambda v: v * 0.5 * (1 + torch.erf(v / 2**0.5)),
        "relu": lambda v: v * (v > 0),
        "silu": lambda v: v / (1 + torch.exp(-v)),
        "tanh": lambda v: 1 - 2 / (torch.exp(2 * v) + 1),
    }[activation](inner)
    expected = y + bent @ one.up.weight.T + one.up.bias
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)
    assert (layer(x) - y).abs().max() > 0.01


def test_only_the_last_layer_of_a_bottleneck_starts_at_zero():
    """Were both zero, no gradient would reach either."""
    torch.manual_seed(0)
    one = dense_bottleneck(5, 20, "gelu")
    assert isinstance(one, Bottleneck)
    assert not one.up.weight.any()
    assert 0.005 < float(one.down.weight.detach().std()) < 0.011
    assert float(one.down.weight.detach().abs().max()) <= 0.02


@pytest.mark.parametrize("kind", [HoulsbyAdapter, PfeifferAdapter])
@pytest.mark.parametrize("width", [33, 1000])
def test_a_bottleneck_wider_than_the_model_is_refused(kind, width, make_classifier):
    with pytest.raises(ValueError, match=rf"width must be in 1 … 32 .* of width 32, got {width}"):
        kind(width=width).prepare(make_classifier())


@every_method
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"activation": "gellu"}, r"no activation 'gellu'; did you mean 'gelu'"),
        ({"targets": []}, r"at least one role, got \[\]"),
        ({"targets": "query"}, "must be a list .* got 'query'"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@every_method
def test_a_role_that_the_model_lacks_is_refused_with_near_ones_and_nothing_is_changed(kind, make_classifier):
    model = make_classifier()
    with pytest.raises(
        ValueError, match="no layer in the role 'feedforward_dwn'; did you mean 'feedforward_d"
    ):
        kind(targets=["feedforward_dwn"]).prepare(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.fixture
def t5_base():
    """T5-base on the meta device, with a decoder: 222.9M parameters, two adapted places in each of 24 layers."""
    config = AutoConfig.for_model(
        "t5", d_model=768, d_ff=3072, num_layers=12, num_decoder_layers=12, num_heads=12, vocab_size=32_128
    )
    with torch.device("meta"):
        encoder = AutoModel.from_config(config)
    names = [name for name, _ in encoder.named_modules()]
    ends = {"attention_output": ".SelfAttention.o", "feedforward_down": ".DenseReluDense.wo"}
    encoder.linear_roles = lambda: {
        role: [name for name in names if name.endswith(end)] for role, end in ends.items()
    }
    model = nn.Module()
    model.encoder, model.head = encoder, nn.Linear(768, 2, device="meta")
    return model


ONE_PLACE = ["feedforward_down"]


@pytest.mark.parametrize(
    ("chosen", "share"),
    [
        (HoulsbyAdapter(width=24), 0.832),
        (HoulsbyAdapter(width=24, targets=ONE_PLACE), 0.427),  # there after Pfeiffer, with norms trained
        (Compacter(width=24), 0.073),
        (Compacter(width=24, targets=ONE_PLACE), 0.047),
    ],
    ids=["adapter", "pfeiffer", "compacter", "compacter++"],
)
def test_shares_of_t5_base_are_those_that_the_paper_of_compacter_prints(chosen, share, t5_base):
    """Karimi Mahabadi et al. (2021), Table 1, in percent."""
    every = count_params(t5_base.encoder)
    with torch.device("meta"):
        model = chosen.prepare(t5_base)
    trained = count_params(model.encoder, trainable_only=True)
    assert round(100 * trained / every, 3) == share


def test_it_starts_as_the_model_and_matters_in_every_family(each_tiny_family):
    family = each_tiny_family
    batch = family.batch(["a good film", "dull"])
    before = family.model(batch)
    model = HoulsbyAdapter(width=4).prepare(family.model)
    # Not to the bit: torch takes another kernel for an attention whose position bias is frozen, as in T5.
    torch.testing.assert_close(model(batch), before, rtol=0, atol=1e-5)
    assert (randomise(model)(batch) - before).abs().max() > 1e-3
