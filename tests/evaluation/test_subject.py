from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from effnlp.data.encodings import Encodings
from effnlp.evaluation.evaluate import evaluate_sets, refuse_sets
from effnlp.evaluation.subject import Subject, probabilities


class Letters:
    """A tokenizer: each letter is its number; it counts how often it is asked."""

    asked = 0

    def encode(self, texts, pairs=None):
        type(self).asked += 1
        rows = [[ord(letter) % 97 + 1 for letter in text] for text in texts]
        return Encodings.from_lists(rows, pad_id=0, type_ids=[[0] * len(r) for r in rows] if pairs else None)


@pytest.fixture
def subject(tmp_path):
    spent = {"seconds": 1.0}

    def predict(examples):
        spent["seconds"] += 2.0
        first = torch.tensor(examples.encodings.ids[examples.encodings.offsets[:-1]].astype(np.float32))
        return torch.stack([first, -first], dim=1)

    def fetch(kind, key, make):
        folder = tmp_path / kind / key
        if not folder.exists():
            folder.mkdir(parents=True)
            make(folder)
        return folder

    def cost():
        stage = SimpleNamespace(seconds=spent["seconds"], flops=None, energy_joules=None)
        return {"evaluation": stage}

    return Subject(
        deployed=SimpleNamespace(tokenizer=Letters(), labels=("no", "yes"), is_pair=False), task=None,
        train=pd.DataFrame(), logits={}, predict=predict, meter=SimpleNamespace(costs=cost), fetch=fetch,
    )  # fmt: skip


def test_texts_are_asked_in_their_order_and_their_ids_are_cached(subject):
    before = Letters.asked
    logits = subject.ask(["b", "a", "c"])
    assert logits[:, 0].tolist() == [2.0, 1.0, 3.0]
    assert torch.equal(subject.ask(["b", "a", "c"]), logits)
    assert Letters.asked == before + 1
    subject.ask(["b", "a"])
    assert Letters.asked == before + 2


def test_a_set_of_pairs_is_refused_by_a_model_of_single_texts(subject):
    with pytest.raises(ValueError, match="the model reads single texts, the set has pairs of texts"):
        subject.ask(["a"], ["b"])


def test_each_choice_has_its_own_price_and_nothing_costs_nothing(subject, monkeypatch):
    from effnlp.evaluation.measured import Measured

    def mine(asked):
        asked.ask(["a"])
        return Measured({"mine/accuracy": 0.5})

    made = {"mine": mine, "none": lambda _: Measured()}
    monkeypatch.setattr("effnlp.evaluation.evaluate.instantiate", lambda config, **_: made[config["is"]])
    found = evaluate_sets(
        subject, {"robustness": {"mine": {"is": "mine"}}, "fairness": {"none": {"is": "none"}}}
    )
    assert found.values == {
        "robustness/mine/accuracy": 0.5, "evaluation/robustness/mine/seconds": 2.0,
    }  # fmt: skip
    assert set(found.absent) == {
        "evaluation/robustness/mine/flops", "evaluation/robustness/mine/energy_joules",
    }  # fmt: skip


def test_a_choice_may_refuse_a_task_before_it_is_trained(monkeypatch):
    def refuse(task, sets):
        raise ValueError(f"no {sets} for {task.name}")

    monkeypatch.setattr(
        "effnlp.evaluation.evaluate.importlib.import_module", lambda _: SimpleNamespace(refuse=refuse)
    )
    mine = {"x": {"_target_": "a.b", "_partial_": True, "sets": "twin"}}
    for group in ("quality", "robustness", "fairness"):
        config = {"quality": {}, "robustness": {}, "fairness": {}, group: mine}
        with pytest.raises(ValueError, match="no twin for trec"):
            refuse_sets(config, SimpleNamespace(name="trec", is_regression=False, is_language=False))


def test_what_compares_classes_is_refused_where_labels_are_numbers():
    config = {"quality": {}, "robustness": {}, "fairness": {"groups": {"_target_": "a.b"}}}
    with pytest.raises(
        ValueError, match=r"evaluation/fairness=groups compares classes.* task stsb are numbers"
    ):
        refuse_sets(config, SimpleNamespace(name="stsb", is_regression=True, is_language=False))


def test_probabilities_sum_to_one_also_for_large_logits():
    found = probabilities(torch.tensor([[1e4, 0.0], [0.0, 0.0]]))
    assert found.tolist() == [[1.0, 0.0], [0.5, 0.5]]
