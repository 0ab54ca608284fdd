"""What goes together is computed from what modules declare, and agrees with what really works."""

import copy
import itertools
import random

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from effnlp import legality, method
from effnlp.legality import IllegalCombinationError, check, first_conflict, gather, plan
from effnlp.menu import Choice, choice_names, conf_dir, groups, read_choice

CONF = [conf_dir()]
SLOTS = sorted(g.partition("/")[2] for g in groups(CONF) if g.startswith("compression/"))
ORDER = ["distillation", "vocabulary", "elastic", "token_dropping", "early_exit", "pruning", "quantization"]
MODELS = [
    {"model": name, **dict(parts)}
    for name in choice_names("model", CONF)
    for parts in itertools.product(
        *(
            [(part, choice) for choice in choice_names(part, CONF)]
            for part in read_choice("model", name, CONF).parts
        )
    )
]


def settings_of(chosen, order=ORDER, **moments):
    """The part of a composed config that legality reads."""
    compression = {"order": list(order)}
    for slot in SLOTS:
        keys = read_choice(f"compression/{slot}", chosen[f"compression/{slot}"], CONF).keys
        compression[slot] = {**keys, **({"moment": moments[slot]} if slot in moments else {})}
    return {"compression": compression}


def combination(model="backbone", peft="none", **slots):
    chosen = {"model": model, **read_choice("model", model, CONF).parts, "peft": peft}
    return chosen | {f"compression/{slot}": slots.get(slot, "none") for slot in SLOTS}


def kinds_of_peft():
    """One choice for each set of declarations, which is all that legality sees of it."""
    kinds = {}
    for name in choice_names("peft", CONF):
        choice = read_choice("peft", name, CONF)
        kinds.setdefault(repr((choice.requires, choice.provides, choice.removes, choice.parts)), name)
    return [*kinds.values()]


DRAWN = 1000
"""So many combinations are looked at: all of them are far too many."""


def everything(pefts=(), seed=0):
    """Combinations of choices and moments, drawn at random: (chosen, moments); of ``pefts``, or of one of each kind."""
    options = {}
    for slot in SLOTS:
        options[slot] = []
        for name in choice_names(f"compression/{slot}", CONF):
            has_moment = "moment" in read_choice(f"compression/{slot}", name, CONF).keys
            options[slot] += [(name, moment) for moment in (legality.TOLD if has_moment else (None,))]
    draw = random.Random(seed)
    sources = [MODELS, pefts or kinds_of_peft(), *(options[slot] for slot in SLOTS)]
    for model, peft, *taken in ([draw.choice(source) for source in sources] for _ in range(DRAWN)):
        chosen = {**model, "peft": peft} | {
            f"compression/{slot}": name for slot, (name, _) in zip(SLOTS, taken, strict=True)
        }
        yield chosen, {slot: moment for slot, (_, moment) in zip(SLOTS, taken, strict=True) if moment}


def refusal(chosen, order=ORDER, **moments):
    with pytest.raises(IllegalCombinationError) as caught:
        check(settings_of(chosen, order, **moments), chosen, CONF)
    return str(caught.value)


@pytest.mark.parametrize(
    ("chosen", "moments"),
    [
        (combination(), {}),
        (combination(peft="lora", quantization="int8_weight_only"), {"quantization": "prepare"}),
        (combination(peft="bitfit", quantization="int8_weight_only"), {"quantization": "prepare"}),
        (combination(quantization="int8_weight_only"), {}),
        (combination(pruning="movement", quantization="int8_dynamic"), {}),
        (combination(model="pretrained", peft="lora", pruning="magnitude", quantization="int8_dynamic"), {}),
        (combination(peft="lora", early_exit="deebert"), {}),
        (combination(model="bag_of_ngrams", quantization="int8_weight_only"), {}),
    ],
)
def test_these_go_together(chosen, moments):
    assert check(settings_of(chosen, **moments), chosen, CONF)


@pytest.mark.parametrize(
    ("chosen", "moments", "both", "capability"),
    [
        (
            combination(quantization="int8_weight_only"), {"quantization": "prepare"},
            ("peft=none", "compression/quantization=int8_weight_only"), "trainable weights",
        ),
        (
            combination(peft="lora", pruning="movement"), {},
            ("compression/pruning=movement", "peft=lora"), "trainable weights",
        ),
        (
            combination(pruning="movement", early_exit="deebert"), {},
            ("compression/pruning=movement", "compression/early_exit=deebert"), "uninterrupted training",
        ),
        (combination("bag_of_ngrams", "bitfit"), {}, ("peft=bitfit", "model=bag_of_ngrams"), "biases"),
        (
            combination("bag_of_ngrams", pruning="magnitude"), {},
            ("compression/pruning=magnitude", "model=bag_of_ngrams"), "linear layers",
        ),
        (
            combination("bag_of_ngrams", early_exit="deebert"), {},
            ("compression/early_exit=deebert", "model=bag_of_ngrams"), "layer outputs",
        ),
    ],
)  # fmt: skip
def test_a_refusal_names_both_choices_and_what_is_lacking(chosen, moments, both, capability):
    message = refusal(chosen, **moments)
    assert all(name in message for name in both)
    assert f"needs {capability}" in message
    assert "what would work" in message


def test_where_a_part_of_the_model_lacks_something_another_part_is_advised():
    message = refusal({**combination(peft="prefix"), "model/mixer": "performer"})
    assert "peft=prefix needs softmax attention" in message
    assert "model/mixer=attention" in message


def test_full_fine_tuning_of_integers_is_advised_to_round_later_or_to_train_beside_them():
    message = refusal(combination(quantization="int8_weight_only"), quantization="prepare")
    for way in ("peft=bitfit", "peft=combined", "compression.quantization.moment=finish"):
        assert way in message


@pytest.mark.parametrize(
    ("pruning", "key", "neutral", "other"),
    [("magnitude", "schedule", "one_shot", "gradual"), ("semi_structured", "recovery", 0.0, 0.2)],
)
@pytest.mark.parametrize("peft", ["ia3", "lora", "head_only"])
def test_pruning_in_training_needs_weights_that_are_trained_and_after_it_is_advised(
    pruning, key, neutral, other, peft
):
    chosen = combination("pretrained", peft, pruning=pruning)
    settings = settings_of(chosen)
    assert settings["compression"]["pruning"][key] == neutral
    assert check(settings, chosen, CONF)
    settings["compression"]["pruning"][key] = other
    with pytest.raises(IllegalCombinationError, match="needs trainable weights when it acts") as caught:
        check(settings, chosen, CONF)
    ways = words_of(str(caught.value))
    assert [f"compression.pruning.{key}={neutral}"] in ways
    assert ["peft=none"] in ways
    assert check(settings, {**chosen, "peft": "none"}, CONF)


@pytest.mark.parametrize("pruning", ["magnitude", "movement"])
def test_integers_before_pruning_are_refused_and_the_other_order_is_advised(pruning):
    chosen = combination(pruning=pruning, quantization="int8_dynamic")
    message = refusal(
        chosen,
        order=[
            "distillation",
            "vocabulary",
            "elastic",
            "token_dropping",
            "quantization",
            "pruning",
            "early_exit",
        ],
    )
    assert (
        "compression.order=[distillation,vocabulary,elastic,token_dropping,pruning,quantization,early_exit]"
        in message
    )
    assert check(
        settings_of(
            chosen,
            [
                "distillation",
                "vocabulary",
                "elastic",
                "token_dropping",
                "pruning",
                "quantization",
                "early_exit",
            ],
        ),
        chosen,
        CONF,
    )


@pytest.mark.parametrize(
    "order", [[], ["pruning"], ["pruning", "pruning", "quantization"], [*ORDER, "more"], ["pruning", 1, None]]
)
def test_an_order_that_does_not_name_each_slot_once_is_refused(order):
    assert (
        "must name each of distillation, early_exit, elastic, pruning, quantization, token_dropping, vocabulary once"
        in refusal(combination(), order)
    )


def test_a_moment_that_there_is_not_is_refused():
    message = refusal(combination(quantization="int8_weight_only"), quantization="finnish")
    assert "compression.quantization.moment must be prepare or finish, got 'finnish'" in message


def words_of(message):
    """The ways out that a refusal names, each a list of overrides."""
    _, _, advice = message.partition("; what would work: ")
    ways = advice.replace(
        "[distillation,vocabulary,elastic,token_dropping,early_exit,pruning,quantization]", "DEFAULT"
    ).split(", ")
    return [way.removesuffix(", …").split(" with ") for way in ways if way not in ("", "…")]


def test_each_way_out_of_every_refusal_is_legal_and_there_always_is_one():
    refused, advised = 0, 0
    for chosen, moments in everything():
        settings = settings_of(chosen, **moments)
        if first_conflict(gather(settings, chosen, CONF)) is None:
            continue
        refused += 1
        with pytest.raises(IllegalCombinationError) as caught:
            check(settings, chosen, CONF)
        ways = words_of(str(caught.value))
        assert ways, str(caught.value)
        for way in ways:
            advised += 1
            changed, told = dict(chosen), dict(moments)
            for override in way:
                key, _, value = override.partition(" (without")[0].partition("=")
                if key.endswith(".moment"):
                    told[key.split(".")[1]] = value
                    continue
                if key == "model":
                    changed = {g: n for g, n in changed.items() if not g.startswith("model/")}
                    changed |= read_choice("model", value, CONF).parts
                changed[key] = value.strip("[]").replace(",", "+")
                told.pop(key.rpartition("/")[2], None)
            assert (changed, told) != (chosen, moments)
            assert check(settings_of(changed, **told), changed, CONF), way
    assert refused > 50
    assert advised > refused


def test_the_neutral_choice_never_stands_in_the_way():
    for chosen, moments in everything():
        if first_conflict(gather(settings_of(chosen, **moments), chosen, CONF)) is None:
            for slot in SLOTS:
                without = {**chosen, f"compression/{slot}": "none"}
                told = {s: m for s, m in moments.items() if s != slot}
                conflict = first_conflict(gather(settings_of(without, **told), without, CONF))
                # Without the rounded base nothing is lost; all else can only need less.
                assert conflict is None


def act(name, **declared):
    return Choice(group="peft" if name.startswith("p") else "compression/x", name=name, **declared)


def test_a_capability_counts_from_the_moment_it_is_provided_and_until_it_is_removed():
    model = Choice("model", "m", provides={"build": ("a",)})
    gives = act("p", provides={"prepare": ("b",)}, removes={"finish": ("b",)})
    during, late = act("x", requires={"during": ("b",)}), act("x", requires={"finish": ("b",)})
    assert first_conflict(plan(model, [], gives, {"x": during}, ["x"])) is None
    step, lacking, remover = first_conflict(plan(model, [], gives, {"x": late}, ["x"]))
    assert (step.moment, step.choice, lacking, remover) == ("finish", late, "b", gives)
    step, lacking, remover = first_conflict(plan(model, [], act("p"), {"x": during}, ["x"]))
    assert (step.moment, lacking, remover) == ("during", "b", None)


def test_a_method_may_need_what_it_itself_removes():
    model = Choice("model", "m", provides={"build": ("a",)})
    both = act("x", requires={"finish": ("a",)}, removes={"finish": ("a",)})
    assert first_conflict(plan(model, [], act("p"), {"x": both}, ["x"])) is None


def test_one_told_to_prepare_comes_before_peft_and_does_not_finish():
    model, peft, base, late = (Choice("model", "m"), act("p"), act("base"), act("late"))
    steps = plan(model, [], peft, {"a": late, "b": base}, ["a", "b"], {"b": "prepare"})
    prepared = [s.choice.name for s in steps if s.moment == "prepare"]
    assert prepared == ["base", "p", "late"]
    assert [s.choice.name for s in steps if s.moment == "finish"] == ["p", "late"]
    finishing = plan(model, [], peft, {"a": late, "b": base}, ["b", "a"], {"b": "finish"})
    assert [s.choice.name for s in finishing if s.moment == "prepare"] == ["p", "late"]
    assert [s.choice.name for s in finishing if s.moment == "finish"] == ["p", "base", "late"]


def test_a_misspelt_capability_gets_near_matches(tmp_path, monkeypatch):
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "legal_mine.yaml").write_text("_target_: legal_mine.mine\n_partial_: true\n")
    (tmp_path / "legal_mine.py").write_text('"""Mine."""\nREQUIRES = {"prepare": ("linear_layer",)}\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    chosen = combination(peft="legal_mine")
    with pytest.raises(IllegalCombinationError, match="did you mean 'linear_layers'"):
        check(settings_of(chosen), chosen, [*CONF, tmp_path])


# ---- what is called legal works, on real models ----

TEXTS = ["the cat sat on the mat", "a dog ran in the rain", "the dog sat", "a cat ran on the mat"] * 4
LABELS = [0, 1, 1, 0] * 4


def covering(combinations, seed=0):
    """A subset in which every pair of values of two factors appears that appears in any combination.

    Of an order, what counts is which of two slots comes first.
    """
    order = list(combinations)
    random.Random(seed).shuffle(order)
    facts = [
        [*((k, v) for k, v in c.items() if k != "order"), *itertools.combinations(c["order"], 2)]
        for c in order
    ]
    pairs = [set(itertools.combinations(sorted(map(str, fact)), 2)) for fact in facts]
    left = set().union(*pairs)
    taken = []
    while left:
        best = max(range(len(order)), key=lambda i: len(pairs[i] & left))
        taken.append(order[best])
        left -= pairs[best]
    return taken


OF_ITSELF = [name for name in choice_names("peft", CONF) if name != "adapter_fusion"]
"""That one fuses adapters which other runs have trained."""


def factors():
    """Legal combinations that need no download, each with an order of compression."""
    draw = random.Random(0)
    for chosen, moments in everything(OF_ITSELF):
        if chosen["model"] != "pretrained":
            order = tuple(draw.sample(SLOTS, len(SLOTS)))
            if first_conflict(gather(settings_of(chosen, order, **moments), chosen, CONF)) is None:
                yield {**chosen, "order": order, "moments": tuple(moments.items())}


COVERING = covering(factors())
assert len(COVERING) > 10


def make(group, name, **changes):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(conf_dir() / group / f"{name}.yaml"))
    config.pop("defaults", None)
    if (group, name) == ("peft", "combined"):
        parts = read_choice(group, name, CONF).parts["peft/parts"].split("+")
        changes = {"parts": {part: make("peft", part) for part in parts}}
    return instantiate({**config, **changes}, _convert_="all")


def built(chosen):
    torch.manual_seed(0)
    parts = {
        group.partition("/")[2]: make(group, name)
        for group, name in chosen.items()
        if group.startswith("model/")
    }
    if chosen["compression/pruning"] == "layers":
        parts["size"] = "small"  # some methods need two layers, and so as many must be left
    choice = make("model", chosen["model"], **parts)
    tokenizer = choice.tokenizer(pd.DataFrame({"text": TEXTS, "label": LABELS}))
    batch = tokenizer.encode(TEXTS).batch(range(len(TEXTS)))
    return choice.build(tokenizer, 2), {**batch, "labels": torch.tensor(LABELS)}


@pytest.mark.parametrize(
    "combination",
    COVERING,
    ids=lambda c: "-".join(
        str(v) for k, v in c.items() if v != "none" and k not in ("order", "moments")
    ) + "-" + "-".join([*c["order"], *(m for _, m in c["moments"])]),
)  # fmt: skip
def test_what_is_legal_prepares_learns_finishes_and_answers(combination):
    order, moments = combination["order"], dict(combination["moments"])
    chosen = {k: v for k, v in combination.items() if k not in ("order", "moments")}
    steps = check(settings_of(chosen, order, **moments), chosen, CONF)
    methods = {"peft": make("peft", chosen["peft"])}
    for slot in SLOTS:
        changes = {"moment": moments[slot]} if slot in moments else {}
        methods[f"compression/{slot}"] = make(f"compression/{slot}", chosen[f"compression/{slot}"], **changes)
    model, batch = built(chosen)
    batch["rows"] = torch.arange(len(TEXTS))
    for one in methods.values():
        if hasattr(one, "lessons"):
            one.lessons.learn_from(copy.deepcopy(model), model(batch).detach())
        if hasattr(one, "read_counts"):
            counts = np.arange(model.encoder.word_embeddings().num_embeddings) % 5
            one.read_counts(counts, np.array([0]), None, counts)

    def acting(moment):
        return [methods[s.choice.group] for s in steps if s.moment == moment and not s.is_part]

    prepared = acting("prepare")
    model = method.prepare(prepared, model, [batch]).train()
    loss = method.objective(prepared, lambda m, b: cross_entropy(m(b), b["labels"]))(model, batch)
    loss.backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learning, "nothing learns"
    assert all(dict(model.named_parameters())[name].requires_grad for name in learning)
    model.eval()
    for one in acting("finish"):
        model = method.finish(one, model, [batch])
    with torch.no_grad():
        logits = model(batch)
    assert logits.shape == (len(TEXTS), 2)
    assert torch.isfinite(logits).all()
    changed = {f"{group}={name}" for group, name in chosen.items() if group.startswith("compression/")}
    noted = {f"{group}={chosen[group]}" for group in method.applied(model) if group in chosen}
    assert {c for c in changed if not c.endswith("=none")} == {
        n for n in noted if n.startswith("compression")
    }
