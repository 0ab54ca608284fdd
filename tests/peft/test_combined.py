import copy
import itertools

import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compose import ConfigError, compose, hydra_context
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import choice_names, conf_dir, read_choice
from effnlp.peft.bitfit import BitFit
from effnlp.peft.combined import Combined
from effnlp.peft.ia3 import IA3
from effnlp.peft.layer_norm import LayerNormTuning
from effnlp.peft.lora import LoRA

ROLES = ("query", "key", "value", "attention_output", "feedforward_up", "feedforward_down")


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def shake(model, seed=5):
    """Give what is trained other values, as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def composed(*overrides):
    with hydra_context():
        return compose(["task=files", "task.path=texts.csv", *overrides])


@pytest.mark.parametrize("order", [("lora", "bitfit"), ("bitfit", "lora")])
def test_what_is_trained_is_the_union_of_what_each_part_trains_alone(make_classifier, order):
    parts = {"lora": LoRA(), "bitfit": BitFit()}
    model = Combined({name: parts[name] for name in order}).prepare(make_classifier())
    alone = trained(LoRA().prepare(make_classifier()))
    biases = {name.replace(".base.", ".") for name in trained(model) - alone}
    assert biases == trained(BitFit().prepare(make_classifier())) - {"head.weight", "head.bias"}
    assert alone < trained(model)


def test_each_part_keeps_its_own_settings_and_learning_rate(make_classifier):
    model = Combined({"lora": LoRA(rank=3), "bitfit": BitFit(learning_rate_factor=7.0)}).prepare(
        make_classifier()
    )
    for name, parameter in model.named_parameters():
        if name.endswith(".a"):
            assert parameter.shape[0] == 3
        is_bias = name.startswith("encoder") and name.endswith("bias")
        assert getattr(parameter, "learning_rate_factor", None) == (7.0 if is_bias else None)


@pytest.mark.parametrize("first", ["bitfit", "layer_norm"])
def test_a_parameter_of_two_parts_belongs_to_the_first(make_classifier, first):
    parts = {"bitfit": BitFit(2.0), "layer_norm": LayerNormTuning(3.0)}
    order = sorted(parts, key=lambda name: name != first)
    model = Combined({name: parts[name] for name in order}).prepare(make_classifier())
    rates = {name: p.learning_rate_factor for name, p in model.encoder.named_parameters() if p.requires_grad}
    assert rates["norm.weight"] == 3.0
    assert rates["layers.0.feedforward.up.bias"] == 2.0
    assert rates["norm.bias"] == {"bitfit": 2.0, "layer_norm": 3.0}[first]


def test_a_part_does_not_leave_its_rate_on_what_an_earlier_part_trains_at_the_base_rate(make_classifier):
    class OwnBias:
        """Trains biases at the base rate, as an adapter does its own."""

        def prepare(self, model):
            model.encoder.norm.bias.requires_grad_(True)
            return model

    model = Combined({"own": OwnBias(), "bitfit": BitFit(9.0)}).prepare(make_classifier())
    assert not hasattr(model.encoder.norm.bias, "learning_rate_factor")
    assert model.encoder.norm.bias.requires_grad


@pytest.mark.parametrize("order", list(itertools.permutations(["lora", "ia3"])))
def test_wrappers_around_wrappers_merge_into_plain_layers(make_classifier, make_batch, order):
    parts = {"lora": LoRA(targets=ROLES), "ia3": IA3(targets=ROLES[:4], feedforward_targets=ROLES[4:])}
    combined = Combined({name: parts[name] for name in order})
    batch, plain = make_batch(), make_classifier()
    model = shake(combined.prepare(make_classifier()))
    before = model(batch)
    assert (before - plain(batch)).abs().max() > 0.01
    finished = method.finish(combined, model)
    torch.testing.assert_close(finished(batch), before, rtol=0, atol=1e-5)
    assert {name: type(module) for name, module in finished.named_modules()} == {
        name: type(module) for name, module in plain.named_modules()
    }


def test_the_order_of_wrappers_is_the_order_of_the_parts(make_classifier):
    model = Combined({"ia3": IA3(), "lora": LoRA(targets=["value"])}).prepare(make_classifier())
    layer = model.encoder.get_submodule(model.encoder.linear_roles()["value"][0])
    kinds = [type(layer).__name__, type(layer.base).__name__, type(layer.base.base).__name__]
    assert kinds == ["LoRALinear", "ScaledLinear", "Linear"]


def test_each_part_says_under_its_own_name_what_it_did(make_classifier):
    combined = Combined({"lora": LoRA(), "ia3": IA3()})
    model = method.finish(combined, combined.prepare(make_classifier()))
    assert method.applied(model) == {
        "peft/parts/lora": {"layers": 6, "merged_layers": 6},
        "peft/parts/ia3": {"layers": 9, "merged_layers": 9},
    }


def test_one_part_is_that_method_alone(make_classifier, make_batch, take_steps):
    batch = make_batch(16)
    models = [shake(chosen.prepare(make_classifier())) for chosen in (LoRA(), Combined({"lora": LoRA()}))]
    for model in models:
        take_steps(model, batch, steps=3)
    assert trained(models[0]) == trained(models[1])
    assert torch.equal(models[0](batch), models[1](batch))


class Recorded:
    """A part that writes down when it was called."""

    def __init__(self, name, calls, settled_after=0.0):
        self.name, self.calls, self.settled_after = name, calls, settled_after

    def callbacks(self):
        return [f"callback of {self.name}"]

    def objective(self, base):
        def loss(model, batch):
            self.calls.append(f"loss of {self.name}")
            return base(model, batch) + 1

        return loss

    def settle(self, model):
        self.calls.append(f"settle {self.name}")
        return model

    def finish(self, model):
        self.calls.append(f"finish {self.name}")
        return model


def test_callbacks_objectives_settling_and_finishing_are_chained_in_order(
    make_classifier, make_batch, loss_of
):
    calls = []
    combined = Combined({"one": Recorded("one", calls, 0.25), "two": Recorded("two", calls, 0.5)})
    model, batch = make_classifier(), make_batch()
    assert method.callbacks([combined]) == ["callback of one", "callback of two"]
    assert method.objective([combined], loss_of)(model, batch) == loss_of(model, batch) + 2
    assert sorted(calls) == ["loss of one", "loss of two"]
    calls.clear()
    method.settle([combined], model)
    assert calls == ["settle one", "settle two"]
    calls.clear()
    combined.finish(model)
    assert [call for call in calls if call.startswith("finish")] == ["finish one", "finish two"]
    assert method.settled_after([combined]) == 0.5


def test_seen_in_the_middle_each_part_shows_what_it_would_become(make_classifier, make_batch):
    class Shown(Recorded):
        def preview(self, model, step, steps, batches):
            self.calls.append((step, steps, len(batches)))
            return model

    batch = make_batch()
    parts = {"shown": Shown("shown", []), "lora": LoRA()}
    combined = Combined(parts)
    model = shake(combined.prepare(make_classifier()))
    looked = method.preview([combined], model, 3, 10, [batch])
    torch.testing.assert_close(looked(batch), model(batch), rtol=0, atol=1e-5)
    assert not any("base" in name for name, _ in looked.named_modules())
    assert any("base" in name for name, _ in model.named_modules())
    assert parts["shown"].calls == []  # what was called is a copy


def test_a_part_that_removes_what_another_trains_is_refused(make_classifier):
    class Replaces:
        def prepare(self, model):
            model.encoder.norm = nn.LayerNorm(model.encoder.width)
            return model

    with pytest.raises(
        ValueError, match="replaces removes 2 tensors that a part before it trains: put it first"
    ):
        Combined({"layer_norm": LayerNormTuning(), "replaces": Replaces()}).prepare(make_classifier())


def test_nothing_to_combine_is_refused():
    with pytest.raises(ValueError, match="nothing to combine"):
        Combined({})


# On the command line

NO_PARTS = {"none", "combined", "hf"}
"""No part: nothing, itself, and what wraps the model in another package's own module."""


def test_every_method_can_be_a_part_and_has_the_settings_that_it_has_alone():
    folders = [conf_dir()]
    names = set(choice_names("peft", folders)) - NO_PARTS
    assert set(choice_names("peft/parts", folders)) == names
    for name in names:
        text = (conf_dir() / "peft" / "parts" / f"{name}.yaml").read_text()
        assert text == f"# @package peft.parts.{name}\ndefaults:\n  - /peft@_here_: {name}\n"
        part, alone = read_choice("peft/parts", name, folders), read_choice("peft", name, folders)
        assert (part.keys, part.requires, part.removes) == (alone.keys, alone.requires, alone.removes)
        config = composed("peft=combined", f"peft/parts=[{name}]").config["peft"]["parts"]
        assert config == {name: composed(f"peft={name}").config["peft"]}


def test_settings_of_a_part_are_set_at_its_own_name_and_leave_the_others_alone():
    typed = ["peft=combined", "peft/parts=[ia3,lora]"]
    before, after = composed(*typed), composed(*typed, "peft.parts.lora.targets=[key]")
    assert after.config["peft"]["parts"]["lora"].pop("targets") == ["key"]
    assert before.config["peft"]["parts"]["lora"].pop("targets") == ["query", "value"]
    assert before.config["peft"] == after.config["peft"]
    assert after.chosen["peft"] == "combined"
    assert after.chosen["peft/parts"] == "ia3+lora"


def test_another_order_is_another_run_and_a_run_without_parts_does_not_name_them():
    one, other = (composed("peft=combined", f"peft/parts={parts}") for parts in ("[ia3,lora]", "[lora,ia3]"))
    assert one.folder != other.folder
    assert (one.chosen["peft/parts"], other.chosen["peft/parts"]) == ("ia3+lora", "lora+ia3")
    assert "peft/parts" not in composed("peft=lora").chosen


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["peft=[lora,bitfit]"], r"takes one choice, .* to combine: peft=combined 'peft/parts=\[lora,bitfit\]'"),
        (["peft=combined", "peft/parts=[lora,lora]"], r"peft/parts names lora twice, in \[lora,lora\]: each acts once"),
        (["peft=combined", "peft/parts=[]"], "peft=combined needs peft/parts: one of .*bitfit"),
        (["peft=combined", "peft/parts=[none,lora]"], "peft/parts has no choice 'none'; there is .*bitfit"),
        (["peft=combined", "peft/parts=[combined]"], "peft/parts has no choice 'combined'; there is .*bitfit"),
        (["peft=combined", "peft/parts=[loar]"], "no choice 'loar'; did you mean 'lora'"),
        (["peft=combined", "peft.parts.lora.rnk=2"], r"peft\.parts\.lora has no key 'rnk'; did you mean 'rank'"),
        (["peft/parts=[lora]"], "peft/parts is a part that belongs to peft=combined; peft=none has no such part"),
        (["compression/pruning=[magnitude]"], "compression/pruning takes one choice, .*: one of none, .*magnitude"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_parts_is_refused_in_words(overrides, message):
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_legality_asks_each_part():
    def refusal(*overrides):
        made = composed(*overrides)
        with pytest.raises(IllegalCombinationError) as caught:
            check(made.config, made.chosen, [conf_dir()])
        return str(caught.value)

    typed = ("peft=combined", "peft/parts=[head_only,ia3]")
    assert refusal(*typed, "model=bag_of_ngrams").startswith(
        "peft/parts=ia3 needs linear layers when it acts (prepare), which model=bag_of_ngrams does not have; "
        "what would work: peft/parts=[head_only], model="
    )
    said = refusal(*typed, "compression/pruning=movement")
    assert "compression/pruning=movement needs trainable weights" in said
    assert "takes away; what would work: compression/pruning=none" in said
    made = composed(*typed)
    assert [step.choice.name for step in check(made.config, made.chosen, [conf_dir()]) if step.is_part] == [
        "head_only", "ia3",
    ] * 3  # fmt: skip


def test_a_run_combines_trains_and_merges(run_tiny):
    record = run_tiny("model=backbone", "peft=combined", "peft/parts=[bitfit,lora]", "peft.parts.lora.rank=2")
    assert record.status == "completed", record.message
    assert record.choices["peft/parts"] == "bitfit+lora"
    assert record.notes["applied"]["peft/parts/lora"] == {"layers": 4, "merged_layers": 4}


def test_a_copy_prepared_by_a_copy_is_independent(make_classifier, make_batch):
    combined, batch = Combined({"lora": LoRA(), "bitfit": BitFit()}), make_batch()
    model = shake(combined.prepare(make_classifier()))
    before = model(batch)
    method.finish(combined, shake(copy.deepcopy(model), seed=8))
    assert torch.equal(model(batch), before)


def test_a_search_chooses_what_is_combined():
    from effnlp.compose import Composer
    from effnlp.search.space import parse

    inner = {
        "peft/parts": "[lora,bitfit],[ia3,lora]",
        "peft/parts=[ia3,lora]": {"peft.parts.ia3.targets": "[key],[value]"},
    }
    dimensions = {"peft": "none,lora,combined", "peft=combined": inner}
    space, _ = parse(dimensions, ["task=files", "task.path=texts.csv"])
    points = list(space.points())
    assert len(points) == space.combinations() == 5
    found = []
    with hydra_context():
        composer = Composer()
        for point in points:
            made = composer(["task=files", "task.path=texts.csv", *(f"{k}={v}" for k, v in point.items())])
            check(made.config, made.chosen, [conf_dir()])
            found.append((made.chosen["peft"], made.chosen.get("peft/parts"), made.folder))
    assert [one[:2] for one in found] == [
        ("none", None), ("lora", None), ("combined", "lora+bitfit"), ("combined", "ia3+lora"), ("combined", "ia3+lora"),
    ]  # fmt: skip
    assert len({folder for _, _, folder in found}) == 5
    parts = next(d for d in space.dimensions if d.key == "peft/parts")
    assert parts.fitting(["lora", "bitfit"]) == "[lora,bitfit]"  # as a record says it
    assert parts.fitting(["bitfit", "lora"]) is None
