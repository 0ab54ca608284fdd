"""A wrong claim is refused before anything runs, with what is wrong; a right one says which cells it names."""

import subprocess
import sys
from pathlib import Path

import pytest

from effnlp.reproduce.claims import VOCABULARY
from effnlp.reproduce.experiment import Column

OF = {"row": "a", "column": "x"}
MANY = {"row": "a", "column": ["x", "y"]}


def problems(kind, columns=None, **arguments):
    return VOCABULARY[kind].problems(arguments, columns)


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("ratio", {"of": OF, "at_least": 1}, "needs 'to'"),
        ("ratio", {"to": 1, "at_least": 1}, "needs 'of'"),
        ("ratio", {"of": OF, "to": 1}, "needs at_least or at_most or within_relative"),
        ("ratio", {"of": OF, "to": 1, "atleast": 1}, "does not know 'atleast'; did you mean 'at_least'"),
        ("ratio", {"of": OF, "to": 0, "at_least": 1}, "to must not be 0"),
        ("equals", {"of": OF, "to": 0, "within_relative": 1}, "to must not be 0"),
        ("ratio", {"of": OF, "to": "print", "at_least": 1}, "to must be cells, a finite number or the word published"),
        ("ratio", {"of": "a", "to": 1, "at_least": 1}, "of must name cells, such as"),
        ("ratio", {"of": {"rows": ["a"]}, "to": 1, "at_least": 1}, "not by 'rows'; did you mean 'row'"),
        ("ratio", {"of": {"row": []}, "to": 1, "at_least": 1}, "must have a name, or a list of names, as row"),
        ("ratio", {"of": {"row": 256}, "to": 1, "at_least": 1}, "quote numbers"),
        ("ratio", {"of": {"row": ["a", "a"]}, "to": 1, "at_least": 1}, "names a row twice"),
        ("ratio", {"of": OF, "to": 1, "at_least": "1e-6"}, "YAML wants a point"),
        ("ratio", {"of": OF, "to": 1, "at_least": True}, "at_least must be a finite number"),
        ("ratio", {"of": OF, "to": 1, "at_least": float("nan")}, "at_least must be a finite number"),
        ("ratio", {"of": OF, "to": 1, "at_least": 2, "at_most": 1}, "at_least 2 is above at_most 1"),
        ("ratio", {"of": OF, "to": 1, "at_least": 2, "within_relative": 1}, "cannot stand beside at_least"),
        ("ratio", {"of": OF, "to": OF, "at_least": 2}, "with itself"),
        ("ratio", {"of": OF, "to": {"row": "a"}, "at_least": 2}, "with itself"),
        ("ratio", {"of": OF, "to": {"row": ["b", "c"]}, "at_least": 2}, "to must have one name as a place"),
        ("paired_difference", {"of": OF, "to": 1, "within": -1}, "within must be above 0"),
        ("equals", {"of": OF, "to": 1, "within": 1, "within_relative": 1}, "within cannot stand beside within_rel"),
        ("equals", {"of": {"column": "x"}, "to": 1, "except": "a"}, "except must be a list of names"),
        ("monotone", {"of": MANY}, "needs 'direction'"),
        ("monotone", {"of": MANY, "direction": "up"}, "direction must be increasing or decreasing, got 'up'"),
        ("monotone", {"of": OF, "direction": "increasing"}, "a list as row, one name as column or"),
        ("monotone", {"of": {"row": ["a", "b"]}, "direction": "increasing"}, "of must have"),
        ("monotone", {"of": {"row": ["a"], "column": "x"}, "direction": "increasing"}, "at least 2 names as row"),
        ("loglog_slope", {"of": MANY, "x": [1, 2, 3], "at_least": 1}, "x has 3 numbers for 2 cells"),
        ("loglog_slope", {"of": MANY, "x": [1, 0], "at_least": 1}, "x must be a list of positive numbers"),
        ("loglog_slope", {"of": MANY, "x": [2, 2], "at_least": 1}, "of which two differ"),
        ("rank_flip", {"of": MANY}, "of must have a list as row, a list as column"),
        ("rank_flip", {"of": {"row": ["a", "b", "c"], "column": ["x", "y"]}}, "exactly 2 names as row"),
        ("retention", {"of": OF, "to": {"row": "b"}}, "needs 'at_least'"),
        ("pareto_dominates", {"of": OF, "to": {"row": "c"}}, "one name as row, a list as column"),
        ("pareto_dominates", {"of": MANY, "to": {"row": "b"}, "tolerance": {"z": 1}}, "tolerance names z"),
        ("pareto_dominates", {"of": MANY, "to": {"column": "z"}}, "to must name another row and nothing else"),
        ("crossing", {"of": MANY, "to": {"row": "a"}}, "with itself"),
        ("crossing", {"of": MANY, "to": {"row": "b", "column": ["x", "y"]}}, "inherits lists from of"),
        ("interval_excludes", {"of": OF}, "needs 'number'"),
        ("interval_excludes", {"of": OF, "number": 1, "side": "left"}, "side must be above or below"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_claim_is_said(kind, arguments, said):
    found = problems(kind, **arguments)
    assert any(said in problem for problem in found), found


def test_columns_must_say_what_is_better_where_a_claim_depends_on_it():
    columns = {"x": Column("x", better="max"), "y": Column("y")}
    arguments = {"of": MANY, "to": {"row": "b"}}
    assert problems("pareto_dominates", **arguments) == []
    (said,) = problems("pareto_dominates", columns, **arguments)
    assert "column 'y' does not say which direction is better" in said


@pytest.mark.parametrize("kind", VOCABULARY)
@pytest.mark.parametrize("broken", [None, 3, "a", [], {"row": None}, {"row": [1, 2]}])
def test_a_broken_claim_is_described_and_its_references_are_read_as_far_as_they_can(kind, broken):
    assert problems(kind, of=broken, to=broken, x=broken)
    for reference in VOCABULARY[kind].references({"of": broken, "to": broken, "x": broken, "except": broken}):
        assert all(isinstance(name, str) for name in reference.values())


def test_references_are_all_cells_that_a_claim_names():
    references = VOCABULARY["ratio"].references
    assert references({"of": OF, "to": {"row": "b"}}) == [OF, {"row": "b", "column": "x"}]
    assert references({"of": OF, "to": "published"}) == [OF]
    every = {"of": {"column": "x"}, "to": {"column": "y"}, "except": ["a", "b"]}
    assert references(every) == [{"column": "x"}, {"column": "y"}, {"row": "a"}, {"row": "b"}]
    assert references({"of": {"row": "a"}, "to": "published", "except": ["x"]}) == [
        {"row": "a"},
        {"column": "x"},
    ]


def test_references_follow_lists():
    of = {"row": ["a", "b"], "column": "x"}
    assert VOCABULARY["loglog_slope"].references({"of": of, "x": {"column": "n"}}) == [
        {"row": "a", "column": "x"}, {"row": "b", "column": "x"},
        {"row": "a", "column": "n"}, {"row": "b", "column": "n"},
    ]  # fmt: skip


def test_every_kind_has_its_rule():
    from effnlp.reproduce.claims import pairs, sequences

    assert VOCABULARY
    for kind in VOCABULARY:
        assert hasattr(pairs, kind) != hasattr(sequences, kind)


def test_reading_claims_needs_no_numerics():
    code = "import sys, effnlp.reproduce.claims; sys.exit(int('numpy' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_documentation_names_every_kind_and_each_of_its_arguments():
    text = Path("docs/reproduce.md").read_text(encoding="utf-8")
    for name, kind in VOCABULARY.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        for argument in {**kind.required, **kind.optional}:
            assert f"`{argument}`" in line, f"{name} lacks {argument}"


def test_examples_of_the_documentation_are_claims_without_problems():
    import yaml

    text = Path("docs/reproduce.md").read_text(encoding="utf-8").partition("## What a claim may say")[2]
    blocks = [block.partition("```")[0] for block in text.partition("\n## ")[0].split("```yaml\n")[1:]]
    claims = [claim for block in blocks for claim in yaml.safe_load(block)]
    assert claims
    for claim in claims:
        arguments = {
            key: value for key, value in claim.items()
            if key not in ("name", "says", "layer", "claim", "frozen", "pilot")
        }  # fmt: skip
        assert VOCABULARY[claim["claim"]].problems(arguments) == []
