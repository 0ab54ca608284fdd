import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.model.classifier import count_params
from effnlp.model.delta import FILE, About, Delta, digest, digest_of_base, entries_of, put, trainable_names
from effnlp.peft.adapter import dense_bottleneck
from effnlp.peft.adapter_fusion import AdapterFusion, FusedLinear, fused_layers, read_adapter
from effnlp.peft.houlsby_adapter import HoulsbyAdapter
from effnlp.peft.lora import LoRA
from effnlp.peft.pfeiffer_adapter import PfeifferAdapter


def randomise(module, seed, std=0.3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module


@pytest.fixture
def save(tmp_path, make_classifier):
    """Save what a method makes of a base, with values as training gives them; its folder and the model."""

    def go(name, chosen=None, seed=0, base=None):
        chosen = chosen or PfeifferAdapter(width=8)
        base = base or make_classifier()
        of_base = digest_of_base(base)
        model = chosen.prepare(base)
        for module in [each for each in model.modules() if hasattr(each, "adapter")]:
            randomise(module.adapter, seed)
        about = About(
            base=of_base, settled=digest(model.state_dict()), prepare=("peft",), finish=("peft",), task=name,
            labels=("a", "b", "c"), classes=3, is_pair=False,
            config={"peft": {"activation": getattr(chosen, "activation", None)}},
        )  # fmt: skip
        (tmp_path / name).mkdir()
        Delta(entries_of(model, trainable_names(model)), about).write(tmp_path / name / FILE)
        return str(tmp_path / name), model.eval()

    return go


def test_a_place_agrees_with_the_equations_of_the_paper():
    """Written token by token, with the adapters' whole outputs as keys, as in the paper."""
    torch.manual_seed(0)
    adapters = [randomise(dense_bottleneck(4, 20, "relu"), seed) for seed in range(3)]
    layer = FusedLinear(nn.Linear(12, 20), adapters)
    for matrix in (layer.query, layer.key, layer.value):
        nn.init.normal_(matrix, std=0.3)
    x = torch.randn(2, 5, 12)
    for text in range(2):
        for token in range(5):
            y = layer.base(x[text, token])
            outputs = [y + adapter(y) for adapter in adapters]
            scores = torch.stack([(layer.query @ y) @ (layer.key @ z) for z in outputs])
            weights = torch.exp(scores) / torch.exp(scores).sum()
            changes = [layer.value @ (z - y) for z in outputs]
            expected = y + sum(w * change for w, change in zip(weights, changes, strict=True))
            torch.testing.assert_close(layer(x)[text, token], expected, rtol=0, atol=1e-4)


def test_the_weights_of_each_token_sum_to_one_and_differ_between_tokens():
    torch.manual_seed(0)
    layer = FusedLinear(nn.Linear(12, 20), [randomise(dense_bottleneck(4, 20, "relu"), s) for s in range(3)])
    nn.init.normal_(layer.query), nn.init.normal_(layer.key)
    y = torch.randn(2, 5, 20)
    changes = torch.stack([adapter(y) for adapter in layer.adapters], dim=-2)
    weights = layer.weights(y, changes)
    assert weights.shape == (2, 5, 3)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5))
    assert weights.std(dim=1).max() > 0.1


@pytest.mark.parametrize("copies", [1, 3])
def test_equal_adapters_fuse_to_that_adapter(copies, save, make_classifier, make_batch):
    path, alone = save("task")
    batch, fused = make_batch(), AdapterFusion([path] * copies).prepare(make_classifier())
    for layer in fused_layers(fused):
        nn.init.normal_(layer.query), nn.init.normal_(layer.key)
    assert len(fused_layers(fused)) == 3
    torch.testing.assert_close(fused(batch), alone(batch), rtol=0, atol=1e-5)
    assert not torch.allclose(make_classifier()(batch), alone(batch), atol=0.01), "the adapters matter"


def test_different_adapters_fuse_to_neither(save, make_classifier, make_batch):
    (one, of_one), (other, of_other) = save("one"), save("other", seed=1)
    batch, fused = make_batch(), AdapterFusion([one, other]).prepare(make_classifier())
    for alone in (of_one, of_other):
        assert not torch.allclose(fused(batch), alone(batch), atol=0.01)


def test_only_the_attention_and_the_head_receive_a_gradient_and_move(
    save, make_classifier, make_batch, take_steps, loss_of
):
    depth, width = 3, 32
    chosen = AdapterFusion([save("one")[0], save("other", seed=1)[0]])
    model = chosen.prepare(make_classifier())
    names = trainable_names(model)
    assert names == {n for n, _ in model.named_parameters() if n.endswith((".query", ".key", ".value"))} | {
        "head.weight",
        "head.bias",
    }
    assert count_params(model, trainable_only=True) - count_params(model.head) == depth * 3 * width * width
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = take_steps(model, make_batch(), steps=10, objective=chosen.objective(loss_of))
    assert losses[-1] < losses[0]
    assert {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])} == names


def test_leaving_the_identity_costs_what_the_penalty_says(save, make_classifier, make_batch, loss_of):
    batch, path = make_batch(), save("one")[0]
    model = AdapterFusion([path]).prepare(make_classifier())
    loss = AdapterFusion([path], value_penalty=0.5).objective(loss_of)
    assert torch.equal(loss(model, batch), loss_of(model, batch))
    with torch.no_grad():
        fused_layers(model)[1].value[2, 5] += 3.0
    torch.testing.assert_close(loss(model, batch) - loss_of(model, batch), torch.tensor(0.5 * 9))
    assert AdapterFusion([path], value_penalty=0.0).objective(loss_of) is loss_of


def test_finishing_leaves_all_and_says_of_how_many_adapters(save, make_classifier, make_batch):
    chosen = AdapterFusion([save("one")[0], save("other", seed=1)[0]])
    model, batch = chosen.prepare(make_classifier()), make_batch()
    before = model(batch)
    finished = chosen.finish(copy.deepcopy(model))
    assert torch.equal(finished(batch), before)
    assert finished.applied["peft"] == {"layers": 3, "merged_layers": 0, "adapters": 2}
    with pytest.raises(ValueError, match="nothing was inserted"):
        chosen.finish(make_classifier())


def test_what_is_kept_is_the_attention_and_loads_where_the_adapters_are(
    save, make_classifier, make_batch, take_steps
):
    paths = [save("one")[0], save("other", seed=1)[0]]
    model, batch = AdapterFusion(paths).prepare(make_classifier()), make_batch()
    take_steps(model, batch, steps=3)
    entries = entries_of(model, trainable_names(model))
    assert not [name for name in entries if ".adapters." in name]
    about = About("", digest(model.state_dict()), {}, (), (), "t", (), 3, is_pair=False)
    fresh = AdapterFusion(paths).prepare(make_classifier())
    put(fresh, Delta(entries, about))
    assert torch.equal(fresh(batch), model(batch))
    others = AdapterFusion(paths[::-1]).prepare(make_classifier())
    with pytest.raises(ValueError, match="something that is frozen differs"):
        put(others, Delta(entries, about))


def test_adapters_of_houlsby_are_fused_if_no_norm_was_trained(save, make_classifier, make_batch):
    path, alone = save("task", HoulsbyAdapter(width=4, train_norms=False))
    fused, batch = AdapterFusion([path]).prepare(make_classifier()), make_batch()
    assert len(fused_layers(fused)) == 6
    torch.testing.assert_close(fused(batch), alone(batch), rtol=0, atol=1e-5)


def test_adapters_of_several_widths_go_together(save, make_classifier):
    paths = [save("narrow", PfeifferAdapter(width=2))[0], save("wide", PfeifferAdapter(width=9))[0]]
    model = AdapterFusion(paths).prepare(make_classifier())
    assert [one.down.out_features for one in fused_layers(model)[0].adapters] == [2, 9]


def test_another_method_may_come_after_it(save, make_classifier, make_batch):
    fusion, lora = AdapterFusion([save("one")[0]]), LoRA(targets=["feedforward_down"])
    batch, model = make_batch(), fusion.prepare(make_classifier())
    before = model(batch)
    model = lora.prepare(model)
    assert torch.equal(model(batch), before)
    model = method.finish(fusion, method.finish(lora, model))
    torch.testing.assert_close(model(batch), before, rtol=0, atol=1e-6)


def test_an_adapter_of_another_base_is_refused(save, make_classifier):
    mine, theirs = save("mine")[0], save("theirs", base=make_classifier(seed=7))[0]
    with pytest.raises(ValueError, match=r"theirs.* was trained on another base than this model"):
        AdapterFusion([mine, theirs]).prepare(make_classifier())


def test_an_adapter_for_layers_of_another_width_is_refused_in_words(save):
    saved = read_adapter(Path(save("mine")[0]))
    with pytest.raises(ValueError, match=r"is for layers of width 32, encoder\.\S+ has 48"):
        saved.at(next(iter(saved.places)), 48)


def test_adapters_at_other_places_are_refused(save, make_classifier):
    one, two = save("one")[0], save("two", HoulsbyAdapter(width=4, train_norms=False))[0]
    with pytest.raises(ValueError, match=r"two.* at 6 places and .*one.* at 3, not the same"):
        AdapterFusion([one, two]).prepare(make_classifier())


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (HoulsbyAdapter(width=4), r"changes more than dense adapters, encoder\.\S*norm\S* first; .*train_norms=false"),
        (LoRA(), r"changes more than dense adapters, encoder\.\S* first"),
    ],
)  # fmt: skip
def test_what_was_trained_otherwise_cannot_be_fused(chosen, message, save, make_classifier):
    path = save("other", chosen)[0]
    with pytest.raises(ValueError, match=message):
        AdapterFusion([path]).prepare(make_classifier())


def test_folders_are_asked_for_and_looked_for_at_once(tmp_path):
    with pytest.raises(
        ValueError, match=r"must be a list of folders .* peft\.adapters=\[DIR,DIR\], got \(\)"
    ):
        AdapterFusion()
    with pytest.raises(ValueError, match=r"must be a list of folders .* got 'DIR'"):
        AdapterFusion("DIR")
    with pytest.raises(FileNotFoundError, match=r"peft\.adapters: there is no .*nowhere"):
        AdapterFusion([str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match="value_penalty must be at least 0, got -1"):
        AdapterFusion([str(tmp_path)], value_penalty=-1)
    with pytest.raises(FileNotFoundError, match="there is no delta"):
        AdapterFusion([str(tmp_path)]).prepare(nn.Identity())
