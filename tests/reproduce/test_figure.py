from dataclasses import replace

import pytest

from effnlp.reproduce.experiment import Column, Published
from effnlp.reproduce.figure import caption, label_sides, number_in, panels, problems
from effnlp.reproduce.plot import focus, plotly, reaches, save
from effnlp.reproduce.read import read_all
from effnlp.reproduce.result import Cell
from effnlp.reproduce.table import tabulate


@pytest.fixture
def lines(experiment, small):
    """Two mixers at three lengths, whose rows are not in order, and the paper's figures of one of them."""
    cells = [
        Cell(f"{mixer} {length}", column, {"0": value, "1": 1.1 * value})
        for length in ("4096", "512", "1024")
        for mixer, power in (("softmax", 2), ("linear", 1))
        for column, value in (("seconds", float(length) ** power), ("memory", 2.0), ("work", 3.0))
    ]
    columns = [Column("seconds", unit="s"), Column("memory", unit="MB"), Column("work", unit="s")]
    published = [
        Published(f"softmax {length}", "seconds", 5.0, "Table 1", "official") for length in (512, 4096)
    ]
    figure = {"kind": "lines", "x": "rows", "y": ["seconds", "work", "memory"], "log": ["x", "y"]}
    made = replace(experiment, columns=columns, rows=[], published=published, figure=figure)
    return made, replace(small, cells=cells, holes=[])


def drawn(experiment, result, **figure):
    experiment = replace(experiment, figure=figure) if figure else experiment
    return panels(experiment, tabulate(experiment, result))


def test_rows_that_differ_in_a_number_are_one_line_from_left_to_right(lines):
    series = [each for panel in drawn(*lines) for each in panel.series]
    assert {each.name for each in series if not each.is_paper} >= {"softmax (ours)", "linear (ours)"}
    for each in series:
        assert each.x == sorted(each.x)
        assert set(each.x) <= {512.0, 1024.0, 4096.0}
        assert [number_in(row)[1] for row in each.names] == each.x


def test_columns_of_one_unit_share_a_panel(lines):
    first, second = drawn(*lines)
    assert (first.y_title, second.y_title) == ("s", "memory (MB)")
    assert {each.name for each in first.series if not each.is_paper} == {
        "softmax, seconds (ours)", "linear, seconds (ours)", "softmax, work (ours)", "linear, work (ours)",
    }  # fmt: skip


def test_ours_and_the_papers_of_one_line_share_a_colour_and_no_others_do(lines):
    first, _ = drawn(*lines)
    by_name = {each.name: each for each in first.series}
    assert by_name["softmax, seconds (paper)"].colour == by_name["softmax, seconds (ours)"].colour
    ours = [each.colour for each in first.series if not each.is_paper]
    assert len(set(ours)) == len(ours) == 4


def test_points_without_a_place_on_a_logarithmic_axis_are_left_out(experiment, small):
    values = {
        ("full", "trained"): 0.0,
        ("full", "SST-2"): 90.0,
        ("LoRA", "trained"): 1.0,
        ("LoRA", "SST-2"): 91.0,
    }
    cells = [Cell(row, column, {"0": value}) for (row, column), value in values.items()]
    experiment = replace(experiment, published=[])
    result = replace(small, cells=cells, holes=[])
    figure = {"kind": "scatter", "x": "trained", "y": "SST-2"}
    names = {log: drawn(experiment, result, **figure, log=log)[0].series[0].names for log in ("x", "y")}
    assert names == {"x": ["LoRA"], "y": ["full", "LoRA"]}


def test_a_point_of_the_paper_stands_at_the_papers_place_or_else_at_ours(experiment, small):
    (panel,) = drawn(experiment, small)
    ours, paper = panel.series
    assert not ours.is_paper
    assert dict(zip(paper.names, paper.x, strict=True)) == {"full": 125.0, "LoRA": 0.3}
    only_up = replace(experiment, published=[f for f in experiment.published if f.column == "SST-2"])
    paper = drawn(only_up, small)[0].series[1]
    assert dict(zip(paper.names, paper.x, strict=True)) == {"full": pytest.approx(22.71), "LoRA": 0.147456}


def test_intervals_reach_from_the_table_and_a_spread_of_the_paper_counts_as_one(experiment, small):
    table = tabulate(experiment, small)
    ours, paper = panels(experiment, table)[0].series
    for each in (ours, paper):
        below, above = reaches(each)
        assert min(below) >= 0
        assert min(above) >= 0
    expected = [table.entries[row, "SST-2"].ours.low for row in ours.names]
    assert [y - b for y, b in zip(ours.y, reaches(ours)[0], strict=True)] == pytest.approx(expected)
    assert reaches(paper)[1][paper.names.index("LoRA")] == pytest.approx(0.2)
    assert reaches(paper)[1][paper.names.index("full")] == 0


def test_bars_begin_at_zero_and_the_axis_holds_every_end(experiment, small):
    (panel,) = drawn(experiment, small, kind="bars", y=["SST-2"])
    low, high = focus(panel)
    assert low == 0
    assert high > max(end for each in panel.series for end in each.high if end is not None)
    assert panel.categories == ["full", "BitFit", "LoRA"]


def test_an_experiment_without_a_figure_or_a_layer_without_its_figures_has_no_panel(
    experiment, small, analytic
):
    assert drawn(replace(experiment, figure=None), small) == []
    assert drawn(experiment, analytic) == []


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ({"kind": "pie", "y": ["SST-2"]}, "kind must be one of bars, lines, scatter, got 'pie'"),
        ({"kind": "bars"}, "y must name a column"),
        ({"kind": "bars", "y": ["SST2"]}, "no column 'SST2'"),
        ({"kind": "scatter", "y": ["SST-2"]}, "x of a scatter must be a column"),
        ({"kind": "bars", "x": "trained", "y": ["SST-2"]}, "x of bars must be rows"),
        ({"kind": "bars", "y": ["SST-2"], "log": ["z"]}, "log must list x or y, got 'z'"),
        ({"kind": "bars", "y": ["SST-2"], "colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused_by_what_is_wrong_with_it(experiment, small, figure, said):
    wrong = replace(experiment, figure=figure)
    assert any(said in problem for problem in problems(wrong))
    with pytest.raises(ValueError, match="peft_like: figure: "):
        panels(wrong, tabulate(wrong, small))
    assert problems(experiment) == []


def test_the_figure_of_every_experiment_that_ships_can_be_drawn():
    experiments = [experiment for experiment in read_all() if experiment.figure]
    assert experiments
    assert [problem for experiment in experiments for problem in problems(experiment)] == []


@pytest.mark.parametrize(
    ("row", "name", "number"),
    [
        ("softmax 1024", "softmax", 1024.0), ("fused, 4k tokens", "fused, tokens", 4000.0), ("T=512", "T", 512.0),
        ("LoRA", "LoRA", None), ("int8", "int8", None), ("RoBERTa 125M", "RoBERTa", 125e6), ("0.5", "", 0.5),
        ("2 layers of 768", "2 layers of", 768.0),
    ],
)  # fmt: skip
def test_the_last_number_in_the_name_of_a_row_is_its_place(row, name, number):
    assert number_in(row) == (name, number)


def test_rows_that_are_all_of_different_names_are_one_line(experiment, small):
    (panel,) = drawn(experiment, small, kind="lines", x="trained", y=["SST-2"])
    ours, paper = panel.series
    assert ours.names == ["LoRA", "full"]
    assert paper.names == ["LoRA", "full"]


def test_a_file_is_the_same_whenever_it_is_drawn(lines, tmp_path):
    for suffix in ("pdf", "png"):
        paths = [tmp_path / f"{name}.{suffix}" for name in ("one", "two")]
        for path in paths:
            save(drawn(*lines), path)
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert paths[0].stat().st_size > 1000


@pytest.mark.parametrize("kind", ["bars", "lines", "scatter"])
def test_the_papers_points_are_hollow_and_ours_filled(experiment, small, kind):
    figure = {"kind": kind, "x": "rows" if kind == "bars" else "trained", "y": ["SST-2"]}
    ours, paper = plotly(drawn(experiment, small, **figure)[0])["traces"]
    assert paper["marker"]["symbol"].endswith("-open")
    assert "open" not in ours["marker"].get("symbol", "")
    assert ours["name"] == "ours"


def test_names_of_points_stand_on_the_side_with_more_room_and_by_turns_above_and_below(experiment, small):
    wide = replace(experiment, published=[])
    cells = [Cell(row, column, {"0": x}) for row, x in zip("abcd", (1.0, 2.0, 50.0, 99.0), strict=True)
             for column in ("trained", "SST-2")]  # fmt: skip
    (panel,) = drawn(wide, replace(small, cells=cells, holes=[]), kind="scatter", x="trained", y=["SST-2"])
    assert panel.labelled
    assert label_sides(panel) == [
        [("right", "top"), ("right", "bottom"), ("right", "top"), ("left", "bottom")]
    ]


@pytest.mark.parametrize("rows", [5, 9])
def test_points_of_the_paper_are_named_too_unless_there_are_too_many_and_ours_have_the_names(
    experiment, small, rows
):
    places = [(str(row), column) for row in range(rows) for column in ("trained", "SST-2")]
    cells = [Cell(row, column, {"0": float(row)}) for row, column in places[2:]]  # none of the first row
    published = [Published(row, column, float(row), "Table 1", "official") for row, column in places]
    (panel,) = drawn(
        replace(experiment, published=published, rows=[]), replace(small, cells=cells, holes=[]),
        kind="scatter", x="trained", y=["SST-2"],
    )  # fmt: skip
    assert panel.labelled
    ours, paper = label_sides(panel)
    named = [name for name, side in zip(panel.series[1].names, paper, strict=True) if side]
    assert all(ours)
    assert sorted(named) == (["0"] if rows == 9 else ["0", "1", "2", "3", "4"])


def test_the_caption_speaks_of_what_is_drawn_alone(experiment, small):
    exact = replace(small, cells=[replace(cell, is_exact=True) for cell in small.cells])
    alone = replace(experiment, published=[])
    assert caption(drawn(experiment, small)) == (
        "Filled: ours, with 90 % intervals over seeds. Hollow: the paper’s figures."
    )
    assert caption(drawn(alone, exact)) == "Filled: ours."


def test_names_with_signs_of_markup_are_shown_as_they_are(experiment, small):
    renamed = replace(small, cells=[replace(cell, row=f"<b>{cell.row}") for cell in small.cells])
    trace = plotly(drawn(experiment, renamed)[0])["traces"][0]
    assert all(text.startswith("&lt;b&gt;") for text in trace["hovertext"])
