"""What every method on models owes, found by listing the configs of ``peft`` and ``compression``."""

import ast
import contextlib
import copy
import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from effnlp import method
from effnlp.compose import compose, hydra_context
from effnlp.data.encodings import Encodings
from effnlp.evaluation.example_flops import example_flops
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import CAPABILITIES, MOMENTS, conf_dir, read_choice
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.classifier import Classifier
from effnlp.model.mixer.attention import Attention
from effnlp.model.storage import stored_bytes

CONF = Path(__file__).parents[2] / "conf"
CONFIGS = sorted([*(CONF / "peft").glob("*.yaml"), *(CONF / "compression").rglob("*.yaml")])
CONFIGS.remove(CONF / "peft" / "combined.yaml")  # it is what its parts are, which are in the list
CONFIGS.remove(CONF / "peft" / "adapter_fusion.yaml")  # it needs trained adapters, which its own tests make
CONFIGS.remove(
    CONF / "compression" / "quantization" / "kv_cache.yaml"
)  # it needs a model that continues texts
assert CONFIGS


VOCABULARY = 60
"""Of the small classifier."""
WORDS = (2000, 20000)
"""Ids of MiniLM's vocabulary that are words."""


def name_of(path):
    return "/".join(path.relative_to(CONF).with_suffix("").parts)


def load(path):
    return OmegaConf.to_container(OmegaConf.load(path))


def make(path, teacher=None, vocabulary=VOCABULARY, **changes):
    made = instantiate({**load(path), **changes}, _convert_="all")
    if hasattr(made, "lessons"):
        made.lessons.learn_from(teacher or a_teacher(), torch.randn(64, 3))
    if hasattr(made, "read_counts"):
        used = np.arange(vocabulary) % 5 != 0
        made.read_counts(used.astype(np.int64), np.array([0]), None, used.astype(np.int64))
    return made


def a_teacher():
    """One that is deeper and wider than the classifier of these tests."""
    torch.manual_seed(5)
    size = Size(depth=6, width=48, heads=2, feedforward_width=96)
    return Classifier(BackboneEncoder(size, Attention, vocabulary_size=60, max_length=24), 3)


@pytest.fixture
def batch_with_rows(make_batch):
    """Batches that say which texts they hold, which no model and only some methods look at."""

    def make(*args, **options):
        batch = make_batch(*args, **options)
        return {**batch, "rows": torch.arange(len(batch["labels"]))}

    return make


@pytest.fixture(params=["backbone", pytest.param("minilm", marks=pytest.mark.slow)])
def kind(request):
    """Which model a method acts on: a small one of ours, or MiniLM."""
    return request.param


@pytest.fixture
def of_kind(kind, make_classifier, request):
    """``of_kind(seed)``: a classifier for three classes; another seed, another head."""
    if kind == "backbone":
        return lambda seed=0: make_classifier(seed=seed)
    build = request.getfixturevalue("minilm").build

    def make(seed=0):
        torch.manual_seed(seed)
        return build(3).eval()

    return make


@pytest.fixture
def a_batch(kind, batch_with_rows):
    """Texts for a classifier of the kind."""

    def make(*args, **options):
        batch = batch_with_rows(*args, **options)
        if kind == "minilm":
            is_token = batch["attention_mask"].bool()
            lowest, count = WORDS
            batch["input_ids"] = torch.where(is_token, lowest + batch["input_ids"] * 101 % count, 0)
        return batch

    return make


@pytest.fixture
def chosen_for(kind, of_kind):
    """``chosen_for(path, **changes)``: the method of a config, with a teacher of the kind where it wants one."""
    if kind == "backbone":
        return make
    return lambda path, **changes: make(
        path, of_kind(5), of_kind().encoder.model.config.vocab_size, **changes
    )


every_config = pytest.mark.parametrize("path", CONFIGS, ids=name_of)


def test_each_group_has_its_neutral_element():
    groups = {path.parent for path in CONFIGS}
    assert len(groups) == 8
    assert all((group / "none.yaml").exists() for group in groups)


@every_config
def test_config_names_its_method_and_only_its_parameters(path):
    cfg = load(path)
    target = get_object(cfg["_target_"])
    assert target.__module__ == ".".join(["effnlp", *path.relative_to(CONF).with_suffix("").parts])
    keys = {key for key in cfg if key[0] != "_"}
    # A partial accepts a misspelt key in silence; binding it to the signature does not.
    inspect.signature(target).bind_partial(**{key: cfg[key] for key in keys})
    settable = set(inspect.signature(target).parameters) - {"model"}
    assert keys == settable, "every parameter that a user may set stands in the config"
    assert cfg.get("_partial_", False) == inspect.isfunction(target)


@every_config
def test_the_values_of_the_config_are_the_defaults_of_the_method(path):
    """Where a parameter has a default; ``model`` and a required value have none."""
    cfg = load(path)
    for name, parameter in inspect.signature(get_object(cfg["_target_"])).parameters.items():
        if name != "model" and parameter.default is not inspect.Parameter.empty:
            default = parameter.default
            assert cfg[name] == (list(default) if isinstance(default, tuple) else default)


@every_config
def test_each_key_has_a_comment(path):
    lines = [line for line in path.read_text().splitlines() if line and line[0] not in "_#"]
    assert all("  # " in line for line in lines)


@every_config
def test_the_docstring_is_an_entry_of_the_menu(path):
    module = importlib.import_module(get_object(load(path)["_target_"]).__module__)
    first, *rest = (module.__doc__ or "").splitlines()
    assert first.endswith(".")
    assert ":" in first
    assert any(line.startswith("Source: ") for line in rest)
    assert "https://arxiv.org/abs/" in module.__doc__


@every_config
def test_capabilities_are_literals_of_the_vocabulary(path):
    source = Path(inspect.getfile(get_object(load(path)["_target_"]))).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        names = [target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name)]
        if names and names[0] in ("REQUIRES", "PROVIDES", "REMOVES"):
            declared = ast.literal_eval(node.value)
            assert set(declared) <= set(MOMENTS)
            assert all(isinstance(values, tuple) for values in declared.values())
            assert {name for values in declared.values() for name in values} <= set(CAPABILITIES)
    choice = read_choice(path.parent.relative_to(conf_dir()).as_posix(), path.stem, [conf_dir()])
    for (key, value), declared in choice.requires_unless.items():
        assert choice.keys[key] == value, "the neutral value is the default"
        assert {name for values in declared.values() for name in values} <= set(CAPABILITIES)


OFF = {
    "compression/pruning/magnitude": {"sparsity": 0.0},
    "compression/pruning/movement": {"sparsity": 0.0},
    "compression/pruning/wanda": {"sparsity": 0.0},
    "compression/pruning/sparsegpt": {"sparsity": 0.0},
    "compression/pruning/semi_structured": {"kept": 4},
    "compression/pruning/l0": {"sparsity": 0.0},
    "compression/pruning/structured_l0": {"sparsity": 0.0},
    "compression/pruning/heads": {"sparsity": 0.0},
    "compression/pruning/feedforward": {"sparsity": 0.0},
    "compression/pruning/layers": {"sparsity": 0.0},
    "compression/pruning/structured": {"heads": 0.0, "feedforward": 0.0},
    "compression/elastic/dynabert": {"width": 1.0},
    "compression/vocabulary/prune": {"min_count": 0},
    "compression/early_exit/deebert": {"threshold": 0.0},
    "compression/early_exit/fastbert": {"speed": 0.0},
    "compression/early_exit/pabee": {"patience": 99},
    "compression/early_exit/berxit": {"threshold": 0.0},
}
ACTIVATIONS_ROUNDED = {
    f"compression/quantization/{name}"
    for name in ("int8_dynamic", "int8_static", "llm_int8", "smoothquant", "qat", "ternary", "binary")
}
ROUNDING = ACTIVATIONS_ROUNDED | {
    f"compression/quantization/{name}" for name in ("gptq", "int4_weight_only", "int8_weight_only", "mixed")
}
TURNED = {"backbone": 5e-3, "minilm": 3e-2}
"""Where activations are rounded, a change of 1e-7 may turn a rounding, and that one others in the layers above it.

In six layers the logits of few texts come to differ by about half of what rounding itself changes, which is 0.02.
"""
CHANGES_AT_START = [
    path for path in CONFIGS if getattr(get_object(load(path)["_target_"]), "changes_at_start", False)
]
CAN_DO_NOTHING = [path for path in CONFIGS if name_of(path) not in ROUNDING and path not in CHANGES_AT_START]


@pytest.mark.parametrize("path", CAN_DO_NOTHING, ids=name_of)
def test_a_method_set_to_do_nothing_leaves_the_logits_alone(path, chosen_for, of_kind, a_batch):
    batch, chosen = a_batch(), chosen_for(path, **OFF.get(name_of(path), {}))
    expected = of_kind()(batch)
    prepared = method.prepare([chosen], of_kind(), [batch]).eval()
    torch.testing.assert_close(prepared(batch), expected, rtol=0, atol=1e-6)
    finished = method.finish(chosen, prepared, [batch]).eval()
    torch.testing.assert_close(finished(batch), expected, rtol=0, atol=1e-6)
    slot, _, name = name_of(path).rpartition("/")
    takes_away = (
        slot in ("compression/pruning", "compression/elastic", "compression/vocabulary") and name != "none"
    )
    assert method.without_effect(finished) == ([slot] if takes_away else [])


@pytest.mark.parametrize("path", CHANGES_AT_START, ids=name_of)
def test_what_says_that_it_changes_the_logits_from_the_start_does(path, chosen_for, of_kind, a_batch):
    batch = a_batch()
    prepared = method.prepare([chosen_for(path)], of_kind(), [batch]).eval()
    assert (prepared(batch) - of_kind()(batch)).abs().max() > 1e-3


@every_config
def test_frozen_parameters_keep_their_bytes_and_the_others_get_a_gradient(
    path, chosen_for, of_kind, a_batch, take_steps, loss_of
):
    chosen = chosen_for(path)
    model = method.prepare([chosen], of_kind(), [a_batch()])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    take_steps(model, a_batch(16), steps=2, objective=method.objective([chosen], loss_of))
    changed = {
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert not changed & frozen
    has_phases = name_of(path).endswith(("deebert", "fastbert"))
    waiting = {name for name in before if name.startswith("exits.") and has_phases}  # theirs has not come
    assert changed | frozen | waiting == set(before)


SAVED = {
    "compression/pruning/magnitude": {"sparsity": 0.5},
    "compression/quantization/mixed": {"bytes_fraction": 1.0},  # else shapes depend on the weights
}


@every_config
def test_saved_finished_and_loaded_gives_the_same_logits(path, chosen_for, of_kind, a_batch, tmp_path):
    def deployed(seed):
        chosen = chosen_for(path, **SAVED.get(name_of(path), {}))
        prepared = method.prepare([chosen], of_kind(seed=seed), [batch])
        return method.finish(chosen, prepared, [batch]).eval()

    batch = a_batch()
    model, other = deployed(0), deployed(1)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert not torch.equal(other(batch), model(batch))
    other.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(other(batch), model(batch))


@every_config
def test_finishing_a_copy_does_not_touch_the_original(path, chosen_for, of_kind, a_batch):
    chosen, batch = chosen_for(path), a_batch()
    model = method.prepare([chosen], of_kind(), [batch]).eval()
    before = model(batch)
    method.finish(chosen, copy.deepcopy(model), [batch])
    assert torch.equal(model(batch), before)


PEFTS = [path for path in CONFIGS if path.parent.name == "peft"]
PAIRS = [(peft, other) for peft in PEFTS for other in CONFIGS if other not in PEFTS]
DEPENDS_ON_DATA = {name_of(path) for path in (CONF / "compression" / "early_exit").glob("*.yaml")} - {
    "compression/early_exit/none"
} | {"compression/pruning/structured_l0", "compression/quantization/mixed"}
"""What a model of these costs depends on the texts, so that it is known at the end only."""
SPARSE = {"compression/pruning/heads": 0.5, "compression/pruning/layers": 0.5}
"""Where 0.8 would leave nothing of the small classifier."""


@pytest.fixture(scope="module")
def legal_pairs():
    """Names of the pairs that go together."""
    with hydra_context():
        composed = compose(["task=files", "model=backbone"])
    found = set()
    for peft, other in PAIRS:
        slot = other.parent.name
        compression = {**composed.config["compression"], slot: load(other)}
        config = {**composed.config, "peft": load(peft), "compression": compression}
        chosen = {**composed.chosen, "peft": peft.stem, f"compression/{slot}": other.stem}
        with contextlib.suppress(IllegalCombinationError):
            check(config, chosen, [CONF])
            found.add((peft.stem, name_of(other)))
    assert len(PAIRS) // 2 < len(found) < len(PAIRS)
    return found


def everything_about(model):
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "modules": [(name, type(module), module.training) for name, module in model.named_modules()],
        "identities": [id(parameter) for parameter in model.parameters()],
        "applied": copy.deepcopy(method.applied(model)),
    }


def costs(model, encodings):
    return {"flops": example_flops(model, encodings, 1)[0], "bytes": stored_bytes(model)}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].stem}+{name_of(pair[1])}")
def test_seen_in_the_middle_it_costs_what_it_will_and_is_not_touched(
    pair, legal_pairs, make_classifier, batch_with_rows, loss_of, take_steps
):
    peft, other = pair
    if (peft.stem, name_of(other)) not in legal_pairs:
        pytest.skip("these two do not go together")
    sparse = {"sparsity": SPARSE.get(name_of(other), 0.8)} if "sparsity" in load(other) else {}
    methods = [make(peft), make(other, **sparse)]
    batches = [batch_with_rows(16, seed=seed) for seed in range(4)]
    model = method.prepare(methods, make_classifier(), batches)
    loss = method.objective(methods, loss_of)
    encodings = Encodings.from_lists([list(range(1, n)) for n in (4, 9, 14)], pad_id=0)
    seen = []
    for _ in range(2):
        take_steps(model, batches[0], steps=3, objective=loss)
        model.train()
        before = everything_about(model)
        looked = method.preview(methods, model, 3, 100, batches)
        after = everything_about(model)
        kept, found = before.pop("values"), after.pop("values")
        assert kept.keys() == found.keys()
        assert all(torch.equal(kept[name], found[name]) for name in kept)
        assert before == after
        assert not looked.training
        assert not {p.data_ptr() for p in looked.parameters()} & {p.data_ptr() for p in model.parameters()}
        seen.append(costs(looked, encodings))
    for each in methods:
        model = method.finish(each, model.eval(), batches)
    if name_of(other) not in DEPENDS_ON_DATA:
        assert seen == [costs(model, encodings)] * 2
    else:
        # A unit of an adapter that no text has reached yet still has the zeros of its start, which are packed.
        assert [found["bytes"] for found in seen] == [pytest.approx(stored_bytes(model), rel=0.01)] * 2


@every_config
def test_what_is_seen_in_the_middle_follows_from_the_state_alone(path, chosen_for, of_kind, a_batch):
    """So that a run which is taken up at a rung shows what the uninterrupted one would."""

    def look():
        chosen = chosen_for(path)
        model = method.prepare([chosen], of_kind(), [a_batch()])
        torch.rand(3)
        return method.preview([chosen], model, 5, 10, [a_batch(seed=seed) for seed in range(3)])

    assert torch.equal(look()(a_batch()), look()(a_batch()))


@every_config
def test_a_text_has_the_same_logits_in_any_company(path, kind, chosen_for, of_kind, a_batch):
    chosen, batch = chosen_for(path), a_batch(12)
    model = method.finish(chosen, method.prepare([chosen], of_kind(), [batch]), [batch]).eval()
    together, lengths = model(batch), batch["attention_mask"].sum(1).tolist()
    alone = [
        model({name: batch[name][i : i + 1, :length] for name in ("input_ids", "attention_mask")})[0]
        for i, length in enumerate(lengths)
    ]
    differences = (together - torch.stack(alone)).abs().amax(1)
    assert differences.median() <= 1e-5
    assert differences.max() <= (TURNED[kind] if name_of(path) in ACTIVATIONS_ROUNDED else 1e-5)
