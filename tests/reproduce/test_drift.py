"""Drift says what moved between two results, and that nothing did; bounds that moved are refused."""

import dataclasses
import datetime

import pytest

from effnlp.compose import ConfigError
from effnlp.reproduce.drift import compare, in_words, moved_cell, refuse_moved_bounds
from effnlp.reproduce.experiment import Claim
from effnlp.reproduce.result import FAILS, HOLDS, UNDECIDED, Cell, Checked, Finding, Result


@pytest.fixture
def changed(small):
    return lambda **changes: dataclasses.replace(small, **changes)


def with_cell(result, new):
    cells = [new if (cell.row, cell.column) == (new.row, new.column) else cell for cell in result.cells]
    assert cells != result.cells
    return dataclasses.replace(result, cells=cells)


def test_nothing_moved_is_said_too(small):
    drift = compare(small, small)
    assert (drift.same, drift.moved) == (len(small.cells), [])
    assert in_words(drift) == ["Nothing moved since 2026-11-22: all 5 cells are the same."]


def test_sums_in_another_order_are_no_drift():
    assert 0.1 + 0.2 != 0.3
    assert moved_cell(Cell("a", "b", {"0": 0.1 + 0.2}, True), Cell("a", "b", {"0": 0.3}, True)) is None


@pytest.mark.parametrize(
    ("before", "after", "is_outside"),
    [
        ([1.0, 2.0, 3.0], [1.1, 2.1, 3.1], False),
        ([1.0, 1.01, 1.02], [2.0, 2.01, 2.02], True),
        ([1.0, 1.01, 1.02], [0.0, 2.0, 4.0], False),  # the wide interval holds both
        ([1.0], [2.0, 2.1], None),
    ],
)
def test_a_cell_moved_beyond_its_interval_if_each_mean_lies_outside_the_interval_of_the_other(
    before, after, is_outside
):
    first, second = (
        Cell("a", "b", {str(seed): value for seed, value in enumerate(each)}) for each in (before, after)
    )
    forth, back = moved_cell(first, second), moved_cell(second, first)
    assert forth.is_outside is is_outside
    assert back.is_outside is is_outside
    assert forth.by == pytest.approx(-back.by)
    assert forth.by == pytest.approx(sum(after) / len(after) - sum(before) / len(before))


def test_of_exact_figures_every_change_counts():
    moved = moved_cell(Cell("a", "b", {"0": 100.0}, True), Cell("a", "b", {"0": 100.1}, True))
    assert moved.is_outside
    assert moved.share == pytest.approx(0.001)


def test_a_figure_that_was_zero_has_no_share_and_is_named_first(small):
    moved = moved_cell(Cell("a", "b", {"0": 0.0}, True), Cell("a", "b", {"0": 1.0}, True))
    assert moved.share is None
    before = with_cell(small, Cell("LoRA", "trained", {"0": 0.0}, True))
    after = with_cell(
        with_cell(small, Cell("LoRA", "trained", {"0": 1.0}, True)), Cell("full", "trained", {"0": 9.0}, True)
    )
    assert [cell.row for cell in compare(before, after).moved] == ["LoRA", "full"]


def test_what_moved_is_named_with_both_figures_and_how_far(small):
    after = with_cell(small, Cell("full", "SST-2", {"0": 82.0, "1": 82.5, "2": 83.0}))
    summary, line = in_words(compare(small, after))
    assert summary == "Of 5 cells 1 moved since 2026-11-22: 1 beyond their intervals."
    assert line == "full, SST-2: 92.5 → 82.5 (-10, -10.81%) beyond the interval."


def test_cells_that_came_and_went_are_named(small, changed):
    after = changed(cells=[*small.cells[1:], Cell("new", "SST-2", {"0": 1.0})])
    drift = compare(small, after)
    assert (drift.gone, drift.new) == ([("LoRA", "SST-2")], [("new", "SST-2")])
    assert "Gone: LoRA, SST-2." in in_words(drift)


def test_verdicts_that_changed_and_claims_that_are_gone_are_said(small, changed):
    turned = dataclasses.replace(small.claims[0], finding=Finding(FAILS))
    lines = in_words(compare(small, changed(claims=[turned, *small.claims[2:]])))
    assert "The verdict of a changed: undecided before, fails now." in lines
    assert "The claim b is gone; its verdict was: holds." in lines


def test_a_new_rule_is_shown_with_the_verdict_by_the_old_one(small, changed):
    other = dataclasses.replace(small.claims[2], arguments={"at_least": 0.5}, finding=Finding(HOLDS))
    lines = in_words(compare(small, changed(claims=[*small.claims[:2], other, small.claims[3]])))
    assert "The rule of c was changed; by the old one the verdict was: fails, now: holds." in lines


def test_versions_machine_and_texts_that_differ_are_said(small, changed):
    after = changed(
        versions={**small.versions, "torch": "2.12.0", "new": "1"},
        machine={"cpu": "Another"},
        fingerprints={"sst2": "ffff"},
    )
    lines = in_words(compare(small, after))
    assert "Versions: torch 2.11.0 → 2.12.0, new none → 1." in lines
    assert "Machine: A processor → Another." in lines
    assert "The texts of sst2 are others." in lines


def test_results_of_different_layers_are_not_compared(small, analytic):
    with pytest.raises(ValueError, match=r"peft_like.small and peft_like.analytic are different"):
        compare(small, analytic)


DAY = datetime.date(2026, 11, 22)
CHECKED = Checked("kept", "s", "ratio", {"of": {"row": "a"}, "at_least": 0.9}, Finding(FAILS), "2026-11-22")


def claim(at_least=0.9, kind="ratio", frozen=DAY, name="kept", layer="small"):
    return Claim(name, "s", layer, kind, {"of": {"row": "a"}, "at_least": at_least}, frozen)


@pytest.fixture
def refuse(experiment, changed):
    def check(new, old=CHECKED):
        refuse_moved_bounds(dataclasses.replace(experiment, claims=[new]), changed(claims=[old]))

    return check


@pytest.mark.parametrize("moved", [claim(0.8), claim(kind="retention"), claim(0.8, frozen=None)])
def test_a_threshold_is_never_moved_on_its_date(moved, refuse):
    with pytest.raises(
        ConfigError, match=r"claims.kept: a threshold is never moved: .*verdict by .* is 'fails'"
    ):
        refuse(moved)


def test_nor_is_it_moved_back_in_time(refuse):
    with pytest.raises(ConfigError, match=r"at_least was 0.9, is 0.8, and frozen is 2026-11-21"):
        refuse(claim(0.8, frozen=DAY - datetime.timedelta(days=1)))


@pytest.mark.parametrize(
    "kept",
    [claim(), claim(frozen=None), claim(0.8, frozen=DAY + datetime.timedelta(days=1)), claim(0.8, name="other"),
     claim(0.8, layer="analytic")],
)  # fmt: skip
def test_the_same_rule_a_later_date_and_other_claims_pass(kept, refuse):
    refuse(kept)


def test_a_bound_without_a_date_needs_one_to_move(refuse):
    without = dataclasses.replace(CHECKED, frozen=None)
    with pytest.raises(ConfigError, match="frozen is not given"):
        refuse(claim(0.8, frozen=None), without)
    refuse(claim(0.8), without)


def test_a_result_read_from_its_file_has_the_same_rules(small, experiment, tmp_path):
    assert any(each.finding.verdict == UNDECIDED for each in small.claims)
    small.save(tmp_path / "result.json")
    again = Result.load(tmp_path / "result.json")
    assert in_words(compare(small, again)) == in_words(compare(again, small))
    assert len(in_words(compare(small, again))) == 1
