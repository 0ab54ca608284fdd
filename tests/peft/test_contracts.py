"""What every choice of ``peft`` owes on every kind of model, found by listing the configs."""

import copy
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from effnlp import method
from effnlp.data.encodings import Encodings
from effnlp.evaluation.example_flops import example_flops
from effnlp.menu import choice_names, conf_dir, read_choice
from effnlp.model.bag_of_ngrams import BagOfNgrams
from effnlp.model.storage import Deployed

ROOT = Path(__file__).parents[2]
FAMILIES = (
    "bert", "roberta", "distilbert", "albert", "deberta", "deberta-v2", "electra", "mpnet", "gpt2", "opt", "llama",
    "qwen2", "qwen3", "t5",
)  # fmt: skip
REFUSED = {
    ("prefix", "deberta"): "a prefix needs attention whose keys and values can be reached",
    ("prefix", "deberta-v2"): "a prefix needs attention whose keys and values can be reached",
    ("prefix", "mpnet"): "a prefix needs attention whose keys and values can be reached",
    ("bitfit", "llama"): "nothing to train: PretrainedEncoder has no bias",
    ("bitfit", "qwen3"): "nothing to train: PretrainedEncoder has no bias",
    ("bitfit", "t5"): "nothing to train: PretrainedEncoder has no bias",
}
"""A method, or one that is combined, and a family that lacks what it works on; and how it says so."""
OWN_TESTS = {"adapter_fusion"}
"""Needs adapters of other tasks that were trained on this very base, which its own tests make."""
ARGUMENTS = {
    "combined": [
        {"parts": ["lora", "bitfit"]},
        {"parts": ["ia3", "lora"]},
        {"parts": ["prefix", "pfeiffer_adapter"]},
    ],
    "diff_pruning": [{"kept": 0.1}],
    "hf": [{"type": "LORA"}, {"type": "LN_TUNING"}],
}
"""The settings with which a method is tested, where its defaults do not say all of it."""


def configs():
    """Name of each case to the method's config and what is changed in it."""
    found = {}
    for name in choice_names("peft", [conf_dir()]):
        if name not in OWN_TESTS:
            for changes in ARGUMENTS.get(name, [{}]):
                words = [
                    w for value in changes.values() for w in (value if isinstance(value, list) else [value])
                ]
                found["-".join([name, *map(str, words)])] = (name, changes)
    return found


METHODS = configs()
assert len(METHODS) > 5
SLOW = {("diff_pruning-0.1", "minilm")}
PAIRWISE = [
    (case, model)
    for number, case in enumerate(METHODS)
    for model in ("small", "minilm", FAMILIES[number % len(FAMILIES)])
    if (case, model) not in SLOW
]
PRODUCT = [
    (case, model) for case in METHODS for model in ("minilm", *FAMILIES) if (case, model) not in PAIRWISE
]
every_pair = pytest.mark.parametrize(
    ("case", "kind"),
    [*PAIRWISE, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in PRODUCT)],
)  # fmt: skip
TEXTS = ["a good film", "dull and much, much too long", "the end"]
pytestmark = pytest.mark.filterwarnings("ignore")


def made(case):
    """A fresh method."""

    def load(name):
        config = OmegaConf.to_container(OmegaConf.load(conf_dir() / "peft" / f"{name}.yaml"))
        return {key: value for key, value in config.items() if key != "defaults"}

    name, changes = METHODS[case]
    if "parts" in changes:
        changes = {"parts": {part: load(part) for part in changes["parts"]}}
    return instantiate({**load(name), **changes}, _convert_="all")


@pytest.fixture
def subject(kind, request, make_classifier, make_batch):
    """A model of the kind: ``build()`` gives it fresh; ``batch`` has labels, ``alone`` are its texts one by one."""
    if kind == "small":
        batch = make_batch(6)
        lengths = batch["attention_mask"].sum(1).tolist()
        keys = ("input_ids", "attention_mask")
        alone = [{key: batch[key][i : i + 1, :length] for key in keys} for i, length in enumerate(lengths)]
        return SimpleNamespace(build=make_classifier, batch=batch, alone=alone)
    source = (
        request.getfixturevalue("minilm")
        if kind == "minilm"
        else request.getfixturevalue("tiny_family")(kind)
    )

    def build():
        torch.manual_seed(0)
        return source.build().eval()

    alone = [source.batch([text]) for text in TEXTS]
    return SimpleNamespace(build=build, batch=source.batch(TEXTS, [1, 0, 1]), alone=alone)


def shake(model, seed=5):
    """Move what is trained, as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@every_pair
def test_it_keeps_the_contracts(case, kind, subject, take_steps, loss_of, tmp_path):
    batch, chosen = subject.batch, made(case)
    plain = subject.build()
    before = plain(batch)
    torch.manual_seed(1)
    fresh = subject.build()
    refusals = [REFUSED[name, kind] for name in case.split("-") if (name, kind) in REFUSED]
    if refusals:
        with pytest.raises(ValueError, match=re.escape(refusals[0])):
            method.prepare([chosen], fresh)
        return
    model = method.prepare([chosen], fresh).eval()

    # Before training it is its base, unless it says otherwise.
    if not getattr(chosen, "changes_at_start", False):
        torch.testing.assert_close(model(batch), before, rtol=0, atol=1e-5)

    # What is frozen keeps its bytes; what is to learn moves.
    learner = copy.deepcopy(model)
    values = {name: value.detach().clone() for name, value in learner.named_parameters()}
    learning = {name for name, parameter in learner.named_parameters() if parameter.requires_grad}
    assert {"head.weight", "head.bias"} <= learning
    take_steps(learner, batch, steps=3, objective=method.objective([copy.deepcopy(chosen)], loss_of))
    changed = {name for name, value in learner.named_parameters() if not torch.equal(value, values[name])}
    assert changed <= learning
    assert "head.weight" in changed
    assert changed == learning or kind != "small"

    # A text has the same logits in any company.
    shake(model)
    trained = model(batch)
    for index, one in enumerate(subject.alone):
        torch.testing.assert_close(model(one)[0], trained[index], rtol=0, atol=1e-5)

    # Settled twice is settled once, what is left to store was trained, and finishing keeps the logits.
    settled = method.settle([chosen], copy.deepcopy(model)).eval()
    logits = settled(batch)
    assert torch.equal(method.settle([chosen], copy.deepcopy(settled)).eval()(batch), logits)
    finished = method.finish(chosen, copy.deepcopy(settled)).eval()
    torch.testing.assert_close(finished(batch), logits, rtol=0, atol=1e-5)
    assert torch.equal(model(batch), trained)  # copies were settled and finished
    assert torch.equal(settled(batch), logits)

    # Saved and loaded it gives the same; its cost is counted.
    Deployed(finished, None, ()).save(tmp_path / "model.pt")
    assert torch.equal(Deployed.load(tmp_path / "model.pt").model(batch), finished(batch))
    flops, reason = example_flops(finished, Encodings.from_lists([[5, 6, 7], [5, 6, 7, 8]], pad_id=0), 1)
    assert flops, reason


@pytest.mark.parametrize("case", METHODS)
def test_a_model_without_what_it_requires_is_refused_in_words(case):
    choice = BagOfNgrams()
    table = pd.DataFrame({"text": TEXTS, "label": [0, 1, 0]})
    model = choice.build(choice.tokenizer(table), 2)
    there = set(read_choice("model", "bag_of_ngrams", [conf_dir()]).provides["build"])
    name, changes = METHODS[case]
    parts = [("peft", part) for part in changes.get("parts", ())] or [("peft", name)]
    needed = {word for part in parts for word in read_choice(*part, [conf_dir()]).requires.get("prepare", ())}
    if needed <= there:
        method.prepare([made(case)], model)
        return
    with pytest.raises(ValueError) as caught:
        method.prepare([made(case)], model)
    assert "object has no attribute" not in str(caught.value)


def test_what_is_left_out_has_tests_of_its_own():
    for name in OWN_TESTS & set(choice_names("peft", [conf_dir()])):
        assert (ROOT / "tests" / "peft" / f"test_{name}.py").exists()


def test_the_families_are_all_that_there_are(request):
    folder = request.getfixturevalue("_tiny_folder")
    known = folder.__globals__["TINY_FAMILIES"]
    assert set(FAMILIES) == set(known)
