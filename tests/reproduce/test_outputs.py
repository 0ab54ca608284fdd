import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from effnlp.reproduce.experiment import Column
from effnlp.reproduce.latex import escaped, latex
from effnlp.reproduce.markdown import markdown_claims, markdown_table
from effnlp.reproduce.outputs import folder_of, show, write
from effnlp.reproduce.result import VERDICTS, Cell, Checked, Finding, Result, Spent
from effnlp.reproduce.table import ours_text, paper_text, tabulate
from effnlp.reproduce.terminal import grids
from effnlp.reproduce.tidy import FIELDS, tidy
from effnlp.reproduce.words import (
    bounds_in_words,
    counted,
    estimate_in_words,
    moment,
    rule_in_words,
    spent_in_words,
)

WIDTHS = [40, 80, 200]


@pytest.fixture
def table(experiment, small):
    return tabulate(experiment, small)


@pytest.fixture
def wide(experiment, small):
    """An experiment with nine columns, and a result that fills them all."""
    columns = [Column(f"task number {n}", f"key/{n}", "%", digits=2, better="max") for n in range(9)]
    cells = [
        Cell(row, column.name, {"0": 1234.5 + place, "1": 1235.0, "2": 1236.25})
        for row in ("full", "LoRA of a rank that is named at some length")
        for place, column in enumerate(columns)
    ]
    return replace(experiment, columns=columns, published=[], figure=None), replace(
        small, cells=cells, holes=[]
    )


def shown(experiment, result, width=80, drift=()):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    show(experiment, result, drift, console)
    return console.file.getvalue()


def texts_of(table):
    for row in table.rows:
        for column in table.columns:
            entry = table.entry(row, column)
            yield from filter(None, (ours_text(entry, column, table.n), paper_text(entry)))


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_of_the_tables_is_wider_than_the_terminal_and_no_number_is_broken(wide, width):
    experiment, result = wide
    table = tabulate(experiment, result)
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for grid in grids(table, width):
        console.print(grid)
    lines = console.file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    for text in texts_of(table):
        assert any(text in line for line in lines)


def test_a_table_is_split_only_where_it_does_not_fit(wide):
    experiment, result = wide
    table = tabulate(experiment, result)
    assert len(grids(table, 400)) == 1
    assert 1 < len(grids(table, 80)) < len(table.columns)


def test_every_block_of_a_split_table_names_the_rows(wide):
    experiment, result = wide
    text = shown(experiment, result)
    assert text.count("\n full ") == len(grids(tabulate(experiment, result), 80)) > 1


def test_both_sides_of_a_column_are_in_one_block(experiment, small):
    for width in WIDTHS:
        table = tabulate(experiment, small)
        found = [[str(column.header) for column in grid.columns] for grid in grids(table, width)]
        for headings in found:
            assert headings[1:2] != ["paper"]
        assert sum(len(headings) - 1 for headings in found) == 5


def test_the_terminal_says_verdict_sentence_interval_and_bound_of_each_claim(experiment, small):
    text = re.sub(r"\s+", " ", shown(experiment, small))
    for claim in small.claims:
        assert f"{claim.finding.verdict} {claim.says}" in text
    assert "-0.333 (90 % interval -1.73 to 1.06, 3 seeds)" in text
    assert "at least -1" in text
    assert "needs 8 GPUs" in text


def test_the_terminal_has_the_command_the_cost_and_what_moved(experiment, small):
    text = re.sub(r"\s+", " ", shown(experiment, small, drift=["full moved by 0.3 points"]))
    assert small.command in text
    assert "6 runs, of which 2 there already: 11.7 min of runs, 9.00 kJ (estimated)" in text
    assert "full moved by 0.3 points" in text


def test_a_markdown_table_has_as_many_cells_in_each_line_even_with_bars_in_names(experiment, small):
    named = replace(small, cells=[replace(cell, row=f"a|{cell.row}") for cell in small.cells])
    lines = [
        line for line in markdown_table(tabulate(experiment, named)).splitlines() if line.startswith("|")
    ]
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(lines) == 2 + 5
    assert len(counts) == 1


def test_markdown_has_every_figure_and_every_footnote(table):
    text = markdown_table(table)
    for figure in texts_of(table):
        assert figure in text
    for sentence in table.footnotes:
        assert sentence in text


def test_markdown_lists_every_claim_with_its_verdict(small):
    text = markdown_claims(small.claims)
    assert re.findall(r"^- \*\*([^*]+)\*\*", text, re.MULTILINE) == [c.finding.verdict for c in small.claims]
    assert {claim.finding.verdict for claim in small.claims} == set(VERDICTS)


def test_the_csv_file_has_a_line_for_each_cell_and_all_its_digits(table):
    lines = list(csv.DictReader(io.StringIO(tidy(table))))
    assert tuple(lines[0]) == FIELDS
    assert [(line["row"], line["column"]) for line in lines] == [
        (row, column.name)
        for row in table.rows
        for column in table.columns
        if (row, column.name) in table.entries
    ]
    for line in lines:
        entry = table.entries[line["row"], line["column"]]
        assert line["ours"] == (repr(entry.ours.mean) if entry.ours else "")
        assert line["paper"] == (repr(entry.paper.value) if entry.paper else "")
        assert bool(line["reason"]) == (entry.hole is not None)
        assert line["verified"] == (str(entry.paper.is_verified) if entry.paper else "")


@pytest.mark.parametrize("character", list('\\{}$&#_%~^<>|"±–≤µλ↑Ł中'))
def test_no_character_reaches_latex_as_a_command_that_it_was_not(character):
    """What is left, once known commands are taken out, has nothing that LaTeX reads in a way of its own."""
    text = escaped(f"a{character}b")
    plain = re.sub(r"\\[&#_%{}$]|\\[a-z]+\{\}|\$(\\[a-z]+|\^\d|-)\$", "", text)
    assert plain.startswith("a")
    assert plain.endswith("b")
    assert not set(plain) & set("\\{}$&#_%~^")
    assert plain.isascii()


def test_every_line_of_the_latex_table_fills_its_columns(table):
    text = latex(table)
    (columns,) = re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}", text)
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines()
    lines = [line for line in body if line.endswith(r"\\")]
    assert len(lines) == 2 + len(table.rows)
    spans = sum(int(width) for width in re.findall(r"\\multicolumn\{(\d)\}", lines[0]))
    assert spans == len(columns) - 1
    for line in lines[1:]:
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    assert text.count("{") == text.count("}")
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex on the path")
def test_the_latex_table_compiles_in_a_plain_document(experiment, small, tmp_path):
    every = "".join(chr(code) for code in (*range(0x20, 0x7F), *range(0xA1, 0x100))) + "±–≤µλ↑Ł中"
    named = replace(experiment, title=every, notes=[every])
    table = latex(
        tabulate(named, replace(small, cells=[replace(c, row=f"{c.row} {every}") for c in small.cells]))
    )
    document = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}" + f"{table}\n" + r"\end{document}"
    )
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "table.tex"],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_all_files_are_written_and_the_result_reads_back(experiment, small, analytic, tmp_path):
    page = write([(experiment, analytic, []), (experiment, small, ["moved"])], tmp_path)
    assert page == tmp_path / "index.html"
    for result in (analytic, small):
        folder = folder_of(result, tmp_path)
        assert folder == tmp_path / "peft_like" / result.layer
        assert Result.load(folder / "result.json") == result
        assert {"result.json", "table.md", "table.csv", "table.tex"} <= {p.name for p in folder.iterdir()}
    assert (tmp_path / "peft_like/small/figure.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "peft_like/small/figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_of_an_earlier_result_does_not_stay_where_there_is_none_now(experiment, small, tmp_path):
    write([(experiment, small, [])], tmp_path)
    write([(replace(experiment, figure=None), small, [])], tmp_path)
    assert not list(tmp_path.rglob("figure.*"))


def test_a_figure_that_cannot_be_drawn_takes_no_table_with_it(experiment, small, analytic, tmp_path):
    wrong = replace(experiment, figure={"kind": "pie", "y": ["SST-2"]})
    with pytest.raises(ValueError, match="kind must be one of"):
        write([(wrong, analytic, []), (experiment, small, [])], tmp_path)
    for result in (analytic, small):
        assert (folder_of(result, tmp_path) / "result.json").exists()
        assert (folder_of(result, tmp_path) / "table.csv").exists()


def test_writing_twice_gives_the_same_files(experiment, small, tmp_path):
    for name in ("one", "two"):
        write([(experiment, small, [])], tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 7
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()


def test_a_result_of_holes_alone_is_written_and_shown(experiment, small, tmp_path):
    empty = replace(small, cells=[], claims=[], spent=Spent())
    write([(experiment, empty, [])], tmp_path)
    assert "out of memory" in (tmp_path / "peft_like/small/table.md").read_text()
    assert "out of memory" in re.sub(r"\s+", " ", shown(experiment, empty))
    assert json.loads((tmp_path / "peft_like/small/result.json").read_text())["cells"] == []


def test_verdicts_are_counted_in_words_and_none_is_lost(small):
    assert counted(small.claims) == "1 holds, 1 fails, 1 undecided, 1 not testable here"
    assert counted(small.claims + small.claims[:2]) == "2 hold, 1 fails, 2 undecided, 1 not testable here"
    assert counted([]) == "no claims"


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (Finding("holds", 2.0, 1.5, 2.5, 5), "2 (90 % interval 1.5 to 2.5, 5 seeds)"),
        (Finding("holds", 2.0, 2.0, 2.0), "2 (exact)"),
        (Finding("undecided", 2.0, None, None, 1), "2 (1 seed)"),
        (Finding("not testable here"), ""),
    ],
)
def test_an_estimate_is_said_with_what_it_rests_on(finding, text):
    assert estimate_in_words(Checked("a", "b", "ratio", {"at_least": 1}, finding)) == text


def test_a_relative_difference_is_said_in_percent_as_its_bounds_are():
    checked = Checked("a", "b", "equals", {"within_relative": 0.03}, Finding("holds", 0.01, -0.02, 0.025, 3))
    assert estimate_in_words(checked) == "1 % (90 % interval -2 % to 2.5 %, 3 seeds)"
    assert bounds_in_words(checked.arguments) == "within ± 3 %"


def test_bounds_are_said_in_words_and_cells_are_no_bounds():
    arguments = {"of": {"row": "a", "column": "b"}, "at_least": 0.5, "at_most": 2, "within_relative": 0.01}
    assert bounds_in_words(arguments) == "at least 0.5, at most 2, within ± 1 %"


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("ratio", {"of": {"row": "LoRA", "column": "SST-2"}, "to": {"row": "full"}, "at_least": 0.97},
         "ratio: SST-2 of LoRA to SST-2 of full, at least 0.97"),
        ("equals", {"of": {"column": "size"}, "to": "published", "within_relative": 0.03, "except": ["a", "b"]},
         "equals: size of every row to the published figure except a, b, within ± 3 %"),
        ("loglog_slope", {"of": {"row": ["128", "512"], "column": "s"}, "x": [128, 512], "at_most": 1.25},
         "loglog slope: s of 128, 512, x 128, 512, at most 1.25"),
        ("monotone", {"of": {"row": ["a", "b"], "column": "s"}, "direction": "increasing"},
         "monotone: s of a, b, direction increasing"),
        ("interval_excludes", {"of": {"row": "a"}, "number": 0.5}, "interval excludes: every column of a, number 0.5"),
        ("", {}, ""),
    ],
)  # fmt: skip
def test_a_rule_says_which_cells_are_held_against_what(kind, arguments, said):
    assert rule_in_words(Checked("a", "b", kind, arguments, Finding("holds"))) == said


def test_a_claim_without_a_rule_is_said_without_one():
    text = markdown_claims([Checked("a", "It is so.", "", {}, Finding("not testable here", why="no GPU"))])
    assert text == "- **not testable here**: It is so.\n  <br>No GPU. (`a`)\n"


def test_runs_that_were_all_there_are_said_to_be():
    assert spent_in_words(Spent(1.0, 0, 3, 60.0)).startswith(
        "3 runs, all of them there already: 60.0 s of runs"
    )
    assert spent_in_words(Spent(2.0)) == "2.00 s, without any run"


def test_times_are_said_to_the_minute_and_what_is_no_time_as_it_is():
    assert moment("2026-11-22T10:00:59+00:00") == "2026-11-22 10:00 UTC"
    assert moment("yesterday") == "yesterday"


def test_what_is_to_be_known_of_records_is_said_wherever_the_table_is(experiment, small):
    warned = replace(small, remarks=["full, seed 0: measured by evaluator 1"])
    assert "measured by evaluator 1" in re.sub(r"\s+", " ", shown(experiment, warned))
    assert "measured by evaluator 1" in markdown_table(tabulate(experiment, warned))
