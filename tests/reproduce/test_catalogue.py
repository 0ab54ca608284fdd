import re
from dataclasses import replace
from pathlib import Path

import pytest

from effnlp.reproduce.catalogue import (
    COMMAND,
    DOCUMENT,
    NOT_RUN,
    RESULTS,
    anchor,
    catalogue,
    published,
    regenerate,
    verdicts,
)
from effnlp.reproduce.experiment import Claim
from effnlp.reproduce.read import experiments_dir, read_all
from effnlp.reproduce.result import NOT_TESTABLE, VERDICTS
from effnlp.reproduce.store import committed_path

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(small):
    return {("peft_like", "small"): small}


def test_the_committed_document_is_what_the_files_and_the_committed_results_say():
    expected = catalogue(read_all(), published(experiments_dir() / RESULTS))
    path = ROOT / DOCUMENT
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    assert found == expected, f"{DOCUMENT} is out of date; this makes it anew: {COMMAND}"


def test_every_committed_result_belongs_to_a_layer_of_an_experiment():
    known = {(experiment.name, layer) for experiment in read_all() for layer in experiment.layers}
    assert set(published(experiments_dir() / RESULTS)) <= known


def test_every_claim_is_counted_and_said_with_its_verdict(experiment, results, small):
    text = catalogue([experiment], results)
    assert sum(verdicts(experiment, results).values()) == len(small.claims)
    for claim in small.claims:
        assert f"**{claim.finding.verdict}**: {claim.says}".replace("<", "\\<") in text
    assert all(verdict in text for verdict in VERDICTS)
    assert text.count("1 holds, 1 fails, 1 undecided, 1 not testable here") == 2


def test_claims_of_a_layer_that_was_not_run_are_said_to_be_unchecked_or_not_testable(experiment):
    unchecked = experiment.claims[0]
    needs_gpus = Claim("ranks", "It ranks first.", "small", not_testable="needs eight GPUs")
    experiment = replace(experiment, claims=[unchecked, needs_gpus])
    assert verdicts(experiment, {}) == {NOT_RUN: 1, NOT_TESTABLE: 1}
    text = catalogue([experiment], {})
    assert "1 not testable here, 1 not run" in text
    assert "Needs eight GPUs" in text
    assert "`effnlp reproduce peft_like --layer small` makes it" in text


def test_table_cost_machine_date_and_command_are_there(experiment, results, small):
    text = catalogue([experiment], results)
    for expected in (
        "92.2 ± 2.1",
        "9.00 kJ (estimated)",
        "A processor",
        "2026-11-22 10:00 UTC",
        small.command,
    ):
        assert expected in text


def test_every_experiment_is_under_its_chapter_and_every_link_leads_to_its_heading(experiment, results):
    other = replace(experiment, name="another", chapter="model", title="Shared: a ‘layer’, twice")
    text = catalogue([other, experiment], results)
    assert (
        text.index("## Model")
        < text.index("### Shared")
        < text.index("## Finetuning")
        < text.index("### Few")
    )
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    links = re.findall(r"\]\(#([^)]+)\)", text)
    # As hosts of Markdown make anchors: lower case, no punctuation but hyphens and underscores.
    made = [re.sub(r"[^\w\- ]", "", h.replace("\\", "").lower()).replace(" ", "-") for h in headings]
    assert links == made == [anchor(other), anchor(experiment)]


def test_the_document_does_not_depend_on_the_order_of_the_results(experiment, small, analytic):
    found = {("peft_like", "small"): small, ("peft_like", "analytic"): analytic}
    backwards = dict(reversed(found.items()))
    assert list(found) != list(backwards)
    assert catalogue([experiment], found) == catalogue([experiment], backwards)


def test_a_result_of_an_unknown_experiment_is_refused_by_name(experiment, small):
    with pytest.raises(ValueError, match=r"unknown experiments or layers: gone\.small\.json"):
        catalogue([experiment], {("gone", "small"): small})


def test_results_are_read_by_what_they_hold_and_a_wrong_name_is_refused(small, analytic, tmp_path):
    for result in (small, analytic):
        result.save(tmp_path / committed_path(result.experiment, result.layer).name)
    assert published(tmp_path) == {("peft_like", "small"): small, ("peft_like", "analytic"): analytic}
    small.save(tmp_path / "other.small.json")
    with pytest.raises(ValueError, match="its name should say so"):
        published(tmp_path)


def test_without_a_folder_there_are_no_results(tmp_path):
    assert published(tmp_path / "none") == {}


def test_the_document_is_written_in_a_checkout_alone(tmp_path):
    with pytest.raises(ValueError, match="made in a checkout"):
        regenerate(tmp_path)
    (tmp_path / "docs").mkdir()
    assert regenerate(tmp_path).read_text(encoding="utf-8") == catalogue(read_all(), {})
