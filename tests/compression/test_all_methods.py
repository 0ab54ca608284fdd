"""What every method on models owes, found by listing the configs of ``peft`` and ``compression``."""

import ast
import copy
import importlib
import inspect
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from effnlp import method
from effnlp.menu import CAPABILITIES, MOMENTS

CONF = Path(__file__).parents[2] / "conf"
CONFIGS = sorted([*(CONF / "peft").rglob("*.yaml"), *(CONF / "compression").rglob("*.yaml")])
assert CONFIGS


def name_of(path):
    return "/".join(path.relative_to(CONF).with_suffix("").parts)


def load(path):
    return OmegaConf.to_container(OmegaConf.load(path))


def make(path, **changes):
    return instantiate({**load(path), **changes}, _convert_="all")


every_config = pytest.mark.parametrize("path", CONFIGS, ids=name_of)


def test_each_group_has_its_neutral_element():
    groups = {path.parent for path in CONFIGS}
    assert len(groups) == 4
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


OFF = {
    "compression/pruning/magnitude": {"sparsity": 0.0},
    "compression/pruning/movement": {"sparsity": 0.0},
    "compression/early_exit/deebert": {"threshold": 0.0},
}
ROUNDING = {"compression/quantization/int8_dynamic", "compression/quantization/int8_weight_only"}
CAN_DO_NOTHING = [path for path in CONFIGS if name_of(path) not in ROUNDING]


@pytest.mark.parametrize("path", CAN_DO_NOTHING, ids=name_of)
def test_a_method_set_to_do_nothing_leaves_the_logits_alone(path, make_classifier, make_batch):
    batch, chosen = make_batch(), make(path, **OFF.get(name_of(path), {}))
    expected = make_classifier()(batch)
    prepared = method.prepare([chosen], make_classifier()).eval()
    torch.testing.assert_close(prepared(batch), expected, rtol=0, atol=1e-6)
    finished = method.finish(chosen, prepared).eval()
    torch.testing.assert_close(finished(batch), expected, rtol=0, atol=1e-6)


@every_config
def test_frozen_parameters_keep_their_bytes_and_the_others_get_a_gradient(
    path, make_classifier, make_batch, take_steps, loss_of
):
    chosen = make(path)
    model = method.prepare([chosen], make_classifier())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    take_steps(model, make_batch(16), steps=2, objective=method.objective([chosen], loss_of))
    changed = {
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert not changed & frozen
    waiting = {name for name in before if name.startswith("exits.")}  # their phase has not come
    assert changed | frozen | waiting == set(before)


@every_config
def test_saved_finished_and_loaded_gives_the_same_logits(path, make_classifier, make_batch, tmp_path):
    def deployed(seed):
        chosen = make(path, **({"sparsity": 0.5} if name_of(path).endswith("magnitude") else {}))
        return method.finish(chosen, method.prepare([chosen], make_classifier(seed=seed))).eval()

    batch, model, other = make_batch(), deployed(0), deployed(1)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert not torch.equal(other(batch), model(batch))
    other.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(other(batch), model(batch))


@every_config
def test_finishing_a_copy_does_not_touch_the_original(path, make_classifier, make_batch):
    chosen = make(path)
    model, batch = method.prepare([chosen], make_classifier()).eval(), make_batch()
    before = model(batch)
    method.finish(chosen, copy.deepcopy(model))
    assert torch.equal(model(batch), before)


@every_config
def test_a_text_has_the_same_logits_in_any_company(path, make_classifier, make_batch):
    chosen = make(path)
    model = method.finish(chosen, method.prepare([chosen], make_classifier())).eval()
    batch = make_batch(12)
    together = model(batch)
    # Dynamic int8 rounds activations: a change of 1e-7 may turn a rounding (stated where it is defined).
    tolerance = 5e-3 if "int8_dynamic" in name_of(path) else 1e-5
    for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = {name: batch[name][i : i + 1, :length] for name in ("input_ids", "attention_mask")}
        torch.testing.assert_close(model(alone)[0], together[i], rtol=0, atol=tolerance)
