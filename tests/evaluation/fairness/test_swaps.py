import itertools
import os

import numpy as np
import pandas as pd
import pytest
import torch

from effnlp.evaluation.counterfactuals import PROBES, Probe
from effnlp.evaluation.fairness import swaps as module
from effnlp.evaluation.fairness.swaps import choose, compare_groups, leaning, refuse, swaps

PAIRS = pd.DataFrame({"text": ["a"], "text_pair": ["b"], "label": [0]})


def test_flips_and_shifts_of_a_pair_and_of_a_larger_group_are_those_counted_by_hand():
    chances = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8]]).double()
    found = compare_groups(chances, ["pair", "pair", "three", "three", "three"])
    assert found.loc["pair"].to_dict() == pytest.approx({"flip_rate": 1.0, "score_shift": 0.5})
    assert found.loc["three"].to_dict() == pytest.approx(
        {"flip_rate": 2 / 3, "score_shift": (0.1 + 0.6 + 0.5) / 3}
    )


def test_every_pair_of_a_group_counts_as_a_slow_count_does():
    draw = np.random.default_rng(0)
    chances = torch.tensor(draw.dirichlet([0.5] * 4, size=23))
    found = compare_groups(chances, [0] * 23).loc[0]
    pairs = list(itertools.combinations(chances, 2))
    flips = np.mean([float(p.argmax() != q.argmax()) for p, q in pairs])
    shifts = np.mean([float((p - q).abs().sum() / 2) for p, q in pairs])
    assert found.to_dict() == pytest.approx({"flip_rate": flips, "score_shift": shifts})
    assert 0 < flips < 1


def test_the_order_of_texts_does_not_matter_and_a_text_alone_is_no_group():
    draw = np.random.default_rng(1)
    chances, group = torch.tensor(draw.dirichlet([1.0] * 3, size=20)), draw.integers(0, 4, 20)
    order = draw.permutation(20)
    first = compare_groups(chances, group).sort_index()
    second = compare_groups(chances[order], group[order]).sort_index()
    assert np.allclose(first.to_numpy(), second.to_numpy())
    assert compare_groups(chances[:3], ["a", "b", "a"]).index.tolist() == ["a"]


def test_the_notes_name_the_variants_at_either_end_of_the_class_that_depends_most_on_them():
    table = pd.DataFrame({"group": [0, 0, 1, 1, 2, 2], "variant": ["x", "y"] * 3})
    yes = torch.tensor([0.6, 0.4, 0.9, 0.7, 0.5, 0.5])
    chances = torch.stack([(1 - yes) / 2, yes, (1 - yes) / 2], dim=1).double()
    found = leaning(chances, table, ("a", "yes", "b"))
    assert found["class"] == "yes"
    assert found["most"] == {"x": pytest.approx(0.2 / 3, abs=1e-6)}
    assert found["least"] == {"y": pytest.approx(-0.2 / 3, abs=1e-6)}


@pytest.fixture
def own_probe(monkeypatch, tmp_path):
    """A set of 6 groups of a he and a she, in a data folder of its own."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "dataset.json").write_text("{}")
    rows = [(f"{who} sings {i}", str(i), who) for i in range(6) for who in ("he", "she")]
    table = pd.DataFrame(rows, columns=["text", "group", "variant"])
    monkeypatch.setattr(module, "PROBES", {"own": Probe("own", lambda _: table, None)})
    return str(tmp_path)


def test_a_model_that_never_reads_the_word_never_flips(make_subject, own_probe):
    found = swaps(make_subject(answer=lambda text: [float(text[-1]), 1.0]), root=own_probe)
    assert list(found.values.values()) == pytest.approx([0.0] * 6, abs=1e-12)
    assert min(found.values.values()) >= 0


def test_a_model_that_reads_nothing_but_the_word_always_flips(make_subject, own_probe):
    subject = make_subject(answer=lambda text: [30.0, 0.0] if text.startswith("he") else [0.0, 30.0])
    found = swaps(subject, root=own_probe)
    assert set(found.values) == {
        f"own/{key}{end}" for key in ("flip_rate", "score_shift") for end in ("", "_low", "_high")
    }
    assert found.values["own/flip_rate"] == found.values["own/flip_rate_low"] == 1.0
    assert found.values["own/score_shift"] == pytest.approx(1.0)
    assert subject.notes["fairness/swaps"]["own"]["groups"] == 6


def test_the_interval_holds_the_rate_where_some_groups_flip(make_subject, own_probe):
    answer = lambda text: [1.0, 0.0] if text in ("he sings 1", "she sings 4") else [0.0, 1.0]  # noqa: E731
    values = swaps(make_subject(answer=answer), root=own_probe).values
    assert values["own/flip_rate"] == pytest.approx(2 / 6)
    assert 0 <= values["own/flip_rate_low"] < 2 / 6 < values["own/flip_rate_high"] <= 1


def test_a_limit_asks_for_less(make_subject, own_probe):
    subject = make_subject(answer=lambda _: [0.0, 1.0])
    swaps(subject, limit=5, root=own_probe)
    assert len(subject.asked) == 4


def test_what_cannot_be_swapped_is_said_before_the_training(make_subject, tmp_path):
    task, pairs = make_subject().task, make_subject(PAIRS).task
    with pytest.raises(ValueError, match=r"has no set 'bec'.*it has toxicity_templates"):
        refuse(task, sets=["bec"], root=str(tmp_path))
    with pytest.raises(ValueError, match="cannot use bec_pro for the task toy, which has pairs of texts"):
        refuse(pairs, sets=["bec_pro"], root=str(tmp_path))
    with pytest.raises(ValueError, match="set EFFNLP_DATA"):
        refuse(task, root=None)
    with pytest.raises(ValueError, match=r"has none$"):
        refuse(task, root=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"has no data set 'bec_pro'"):
        refuse(task, sets=["bec_pro"], root=str(tmp_path))
    with pytest.raises(ValueError, match="a list of different sets"):
        refuse(task, sets=["bec_pro", "bec_pro"], root=str(tmp_path))
    with pytest.raises(ValueError, match=r"limit must be at least 2 \(a pair\), got 1"):
        refuse(task, limit=1, root=str(tmp_path))


@pytest.mark.needs_data("toxicity_templates")
@pytest.mark.needs_data("wiki_toxicity")
@pytest.mark.needs_data("bec_pro")
@pytest.mark.needs_data("winogender")
def test_all_sets_are_asked_of_single_texts_and_only_those_that_fit_of_pairs(make_subject):
    root = os.environ["EFFNLP_DATA"]
    subject = make_subject(answer=lambda text: [0.0, float("christian" in text) - 0.5])
    found = swaps(subject, limit=200, root=root)
    assert {key.partition("/")[0] for key in found.values} == set(PROBES)
    # Of 50 identities one has the word: 49 of 1225 pairs differ.
    assert found.values["toxicity_templates/flip_rate"] == pytest.approx(49 / 1225)
    assert "christian" in subject.notes["fairness/swaps"]["toxicity_templates"]["most"]
    assert found.values["bec_pro/flip_rate"] == 0.0
    asked = make_subject(PAIRS, answer=lambda pair: [0.0, float(" she " in f" {pair[1]} ")])
    assert set(choose(asked.task, None, root)) == {"winogender"}
    assert swaps(asked, root=root).values["winogender/flip_rate"] > 0
