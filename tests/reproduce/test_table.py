from dataclasses import replace

import pytest

from effnlp.reproduce.experiment import Column, Published
from effnlp.reproduce.result import Cell, Hole
from effnlp.reproduce.table import (
    HOLE,
    Entry,
    header,
    number,
    ours_text,
    paper_text,
    raised,
    summed_up,
    tabulate,
)
from effnlp.reproduce.words import CHANGED, layer_in_words
from effnlp.statistics import t_interval


@pytest.fixture
def table(experiment, small):
    return tabulate(experiment, small)


def test_every_cell_of_the_result_is_in_the_table_with_the_mean_of_its_seeds(table, small):
    for cell in small.cells:
        ours = table.entries[cell.row, cell.column].ours
        assert ours.mean == pytest.approx(sum(cell.values.values()) / len(cell.values))
        assert cell.row in table.rows
        assert cell.column in [column.name for column in table.columns]


def test_figures_of_an_earlier_design_are_said_to_be_of_one(experiment, small):
    layer = experiment.layers["small"]
    made = replace(small, said="Two epochs.", design=layer.design)
    assert CHANGED not in tabulate(experiment, made).remarks
    for change in ({"common": ["trainer.epochs=9"]}, {"rows": {"other": []}}, {"seeds": [(7, 7)]}):
        changed = replace(layer, said="Nine epochs.", **change)
        later = replace(experiment, layers={**experiment.layers, "small": changed})
        assert CHANGED in tabulate(later, made).remarks
        assert layer_in_words(later, made) == "Two epochs."
        assert CHANGED not in tabulate(later, small).remarks  # its design was not kept
        assert layer_in_words(later, small) == "Nine epochs."


def test_words_and_needs_are_not_part_of_a_design(experiment):
    layer = experiment.layers["small"]
    assert replace(layer, said="Other words.", needs={"gpus": 8}).design == layer.design


def test_rows_named_by_the_experiment_come_first_and_the_others_after(table):
    assert table.rows == ["full", "BitFit", "LoRA"]


def test_columns_come_in_the_order_of_the_experiment_whatever_the_order_of_the_cells(experiment, small):
    backwards = replace(small, cells=list(reversed(small.cells)))
    names = [column.name for column in tabulate(experiment, backwards).columns]
    assert names == ["SST-2", "trained", "TREC_50"]


def test_a_layer_without_figures_shows_those_of_the_paper(experiment, small):
    table = tabulate(experiment, replace(small, cells=[], holes=[]))
    assert [column.name for column in table.columns] == ["SST-2", "trained", "MNLI"]
    assert not any(entry.ours for entry in table.entries.values())


def test_a_published_row_that_was_not_reproduced_is_in_the_table(experiment, small):
    only_full = replace(small, cells=[cell for cell in small.cells if cell.row == "full"], holes=[])
    table = tabulate(experiment, only_full)
    assert "LoRA" in table.rows
    assert table.entries["LoRA", "SST-2"].ours is None
    assert table.entries["LoRA", "SST-2"].paper.value == 95.1


def test_a_figure_of_several_seeds_has_the_interval_of_student():
    found = summed_up(Cell("a", "b", {"0": 1.0, "1": 2.0, "2": 4.0}))
    expected = t_interval([1.0, 2.0, 4.0])
    assert (found.low, found.high, found.n) == (expected.low, expected.high, 3)


def test_seeds_that_were_crossed_are_not_taken_for_independent():
    """Two initialisations that differ a lot, crossed with three orders that do not matter at all."""
    crossed = {
        f"{init}-{order}": 10.0 * init + 0.1 * ((init + order) % 2) for init in (0, 1) for order in (0, 1, 2)
    }
    alike = {str(place): value for place, value in enumerate(crossed.values())}
    assert summed_up(Cell("a", "b", crossed)).half_width > 2 * summed_up(Cell("a", "b", alike)).half_width


@pytest.mark.parametrize("values", [{"0": 3.0}, {"0": 3.0, "1": 3.0}])
def test_an_exact_figure_has_no_interval(values):
    found = summed_up(Cell("a", "b", values, is_exact=True))
    assert (found.mean, found.half_width, found.n) == (3.0, None, 0)


def test_one_seed_is_shown_without_an_interval_and_said_to_be_one(table):
    column = table.columns[2]
    assert ours_text(table.entry("full", column), column, table.n) == "71.0 (n = 1)"
    assert "A figure of one seed has no interval." in table.remarks


def test_the_number_of_seeds_is_said_once_and_only_exceptions_in_the_cells(table):
    assert table.n == 3
    assert any("3 seeds" in remark for remark in table.remarks)
    assert "n =" not in ours_text(table.entry("full", table.columns[0]), table.columns[0], table.n)


def test_a_hole_has_its_reason_and_the_command_that_would_fill_it_as_a_footnote(table):
    entry = table.entry("BitFit", table.columns[0])
    assert ours_text(entry, table.columns[0], table.n) == HOLE
    (mark,) = entry.ours_marks
    assert "out of memory" in table.footnotes[mark - 1]
    assert "effnlp run peft=bitfit seed=1" in table.footnotes[mark - 1]


def test_a_cell_that_was_made_after_all_is_no_hole(experiment, small):
    entry = tabulate(experiment, replace(small, holes=[Hole("full", "SST-2", "late")])).entries[
        "full", "SST-2"
    ]
    assert entry.hole is None
    assert entry.ours is not None


def test_a_figure_that_was_not_seen_where_it_was_published_is_called_unverified(table):
    entries = [entry for entry in table.entries.values() if entry.paper]
    said = {
        entry.paper.is_verified: [table.footnotes[mark - 1] for mark in entry.paper_marks]
        for entry in entries
    }
    assert any("Unverified" in sentence for sentence in said[False])
    assert not any("Unverified" in sentence for sentence in said[True])


def test_sources_need_no_marks_where_all_figures_have_one(experiment, analytic):
    table = tabulate(experiment, analytic)
    assert table.footnotes == []
    assert table.remarks == ["Paper: Table 2, seen in the full text of the paper."]


def test_a_source_stands_as_a_footnote_even_if_it_is_the_only_one_and_unverified(experiment, analytic):
    unverified = [replace(figure, seen="other_source") for figure in experiment.published]
    table = tabulate(replace(experiment, published=unverified), analytic)
    marked = [entry for entry in table.entries.values() if entry.paper]
    assert marked
    assert all(entry.paper_marks for entry in marked)


def test_a_footnote_is_there_once_however_often_it_is_needed(table):
    assert len(table.footnotes) == len(set(table.footnotes)) == 4
    used = {m for entry in table.entries.values() for m in (*entry.ours_marks, *entry.paper_marks)}
    assert used == set(range(1, 5))


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1.25, 1, "1.2"), (0.0004, 1, "4.0e-4"), (0.0, 2, "0.00"), (-0.0, 1, "0.0"), (3.2e9, 0, "3.2e+9")],
)
def test_numbers_have_the_digits_of_their_column_unless_nothing_would_be_left_of_them(value, digits, text):
    assert number(value, digits) == text


def test_what_a_paper_prints_is_not_rounded(table):
    figure = Published("a", "b", 92.365, "Table 1", "official", spread=0.1)
    entry = replace(table.entry("full", table.columns[0]), paper=figure)
    assert paper_text(entry) == "92.365 ± 0.1"


def test_a_heading_has_the_unit_and_says_which_way_is_better():
    assert header(Column("SST-2", unit="%", better="max")) == "SST-2 (%)\u00a0↑"
    assert header(Column("bytes")) == "bytes"


def test_marks_are_superscripts():
    assert raised([1, 12]) == "¹˒¹²"
    assert raised([]) == ""


def test_a_figure_with_an_interval_of_its_own_shows_its_ends():
    cell = Cell("a", "b", {"0": 2.4}, interval=(1.2, 6.9))
    found = summed_up(cell)
    assert (found.mean, found.low, found.high, found.n) == (2.4, 1.2, 6.9, 0)
    assert ours_text(Entry(found), Column("b", digits=1), 3) == "2.4 (1.2–6.9)"
