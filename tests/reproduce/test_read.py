"""Experiments are read whole or refused with the name of everything that is wrong."""

import datetime
import re
from pathlib import Path

import pytest
import yaml

from effnlp.compose import ConfigError
from effnlp.reproduce import read as reading
from effnlp.reproduce.experiment import Column, Computed, Published
from effnlp.reproduce.read import CHAPTERS, experiments_dir, find, names, parse, read, read_all
from effnlp.reproduce.seeds import parse_seeds, seed_name
from effnlp.reproduce.validate import validate

DOCUMENT = Path(__file__).parents[2] / "docs" / "reproduce.md"

WHOLE = {
    "title": "Squares",
    "citation": "Euclid (-300)",
    "question": "How large is a square?",
    "columns": [
        {"name": "area", "unit": "m²"},
        {"name": "accuracy", "key": "val/accuracy", "unit": "%", "scale": 100},
    ],
    "published": [
        {"row": 2, "column": "area", "value": 4, "where": "Table 1", "seen": "full_text"},
        {"row": "big", "where": "Table 1", "seen": "official", "cells": {"area": [9, 0.5], "accuracy": 81.5}},
    ],
    "layers": {
        "analytic": {
            "computed": [
                {"function": "operator.mul", "row": 2, "column": "area", "arguments": {}},
                {"function": "math.fsum", "row": "big", "column": "area"},
            ]
        },
        "small": {"common": ["task=sst2"], "rows": {"big": None, 2: ["peft=lora"]}, "seeds": 2, "seeds_of": {2: [4]}},
    },
    "claims": [
        {
            "name": "right", "says": "It is.", "layer": "small", "claim": "paired_difference",
            "of": {"row": 2, "column": "accuracy"}, "to": {"row": "big", "column": "accuracy"}, "at_least": -1.0,
            "frozen": datetime.date(2026, 11, 22), "pilot": "3 seeds gave 0",
        }
    ],
}  # fmt: skip


def written(content, folder, chapter="model", name="squares"):
    path = folder / chapter / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def changed(**changes):
    """``WHOLE`` with other values; None takes a key out."""
    return {key: value for key, value in {**WHOLE, **changes}.items() if value is not None}


def with_function(content, function="effnlp.reproduce.seeds.seed_name", **arguments):
    """The content with one computed cell."""
    computed = {"function": function, "row": "2", "column": "area", "arguments": arguments}
    big = {"function": "effnlp.reproduce.seeds.seed_name", "row": "big", "column": "area",
           "arguments": {"init": 0, "order": 0}}  # fmt: skip
    layers = {**content["layers"], "analytic": {"computed": [computed, big]}}
    return {**content, "layers": layers}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "experiments_dir", lambda: tmp_path)
    return tmp_path


def test_names_and_types_are_those_of_the_file_and_its_place(folder):
    written(WHOLE, folder)
    made = read("squares")
    assert (made.name, made.chapter, made.title) == ("squares", "model", "Squares")
    assert made.columns[1] == Column("accuracy", "val/accuracy", "%", 100)
    assert made.layers["small"].rows == {"big": [], "2": ["peft=lora"]}
    assert made.layers["small"].seeds == [(0, 0), (1, 1)]
    assert made.layers["small"].seeds_of == {"2": [(4, 4)]}
    assert made.layers["analytic"].computed[1] == Computed("math.fsum", row="big", column="area")
    assert made.claims[0].frozen == datetime.date(2026, 11, 22)


def test_a_row_that_yaml_reads_as_a_number_is_the_same_row_everywhere(folder):
    written(WHOLE, folder)
    made = read("squares")
    assert made.published[0].row == "2"
    assert made.layers["analytic"].computed[0].row == "2"
    assert made.claims[0].arguments["of"]["row"] == "2"
    assert made.claims[0].arguments["at_least"] == -1.0


def test_the_short_form_of_published_figures_is_one_figure_a_column(folder):
    written(WHOLE, folder)
    assert read("squares").published[1:] == [
        Published("big", "area", 9, "Table 1", "official", spread=0.5),
        Published("big", "accuracy", 81.5, "Table 1", "official"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "titel: unknown key; did you mean 'title'"),
        ({"title": None}, "title: is missing"),
        ({"columns": None}, "columns: is missing"),
        ({"layers": None}, "layers: is missing"),
        ({"name": "other"}, "name: is given by the path of the file"),
        ({"title": 3}, "title: must be text, got 3"),
        ({"columns": [{"name": "a", "scale": "1e-6"}]}, r"columns\[0\].scale: .*'1e-6'; write 1.0e-6"),
        ({"columns": [{"key": "a"}]}, r"columns\[0\].name: is missing"),
        ({"columns": {"a": 1}}, "columns: must be a list"),
        (
            {"published": [{"row": "a", "column": "area", "value": 1, "seen": "official"}]},
            "where: is missing",
        ),
        ({"published": [{"row": "a", "column": "area", "value": 1, "where": "T"}]}, "seen: is missing"),
        (
            {"published": [{"row": "a", "column": "area", "cells": {}, "where": "T", "seen": "official"}]},
            "cells, which give column too",
        ),
        (
            {"published": [{"row": "a", "cells": {"area": "12"}, "where": "T", "seen": "official"}]},
            "published.*cells.area.value: must be a number",
        ),
        ({"layers": {"tiny": {}}}, "layers.tiny: unknown layer"),
        ({"layers": {"small": {"rows": {"a": "peft=lora"}}}}, "layers.small.rows: must be a mapping"),
        ({"layers": {"small": {"seeds": -1}}}, "layers.small.seeds: must be a number of seeds"),
        (
            {"layers": {"small": {"seeds_of": {"big": -1}}}},
            "layers.small.seeds_of.big: must be a number of seeds",
        ),
        ({"layers": {"small": {"seeds_of": 3}}}, "layers.small.seeds_of: must be a mapping, got 3"),
        ({"layers": {"small": {"sedes": 1}}}, "layers.small.sedes: unknown key; did you mean 'seeds'"),
        (
            {"claims": [{"name": "c", "says": "s", "layer": "small", "frozen": "soon"}]},
            "claims.c.frozen: must be a day",
        ),
        (
            {"claims": [{"name": "c", "says": "s", "layer": "small", "at_least": "1e-3"}]},
            "claims.c.at_least: '1e-3' is text; write 1.0e-3",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(changes, message, folder):
    written(changed(**changes), folder)
    with pytest.raises(ConfigError, match=message) as caught:
        read("squares")
    assert "squares.yaml:" in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(folder):
    written(changed(title=3, question=4, figur={}), folder)
    with pytest.raises(ConfigError) as caught:
        read("squares")
    assert [word in str(caught.value) for word in ("title:", "question:", "figur:")] == [True] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: a\ntitle: b\n", "'title' is there twice"),
        ("layers:\n  small:\n    rows: {a: [], a: [peft=lora]}\n", "'a' is there twice"),
        ("title: [a\n", "is not YAML"),
        ("- a\n", "must hold a mapping"),
        ("", "must hold a mapping"),
    ],
)
def test_a_file_that_yaml_would_read_in_another_sense_is_refused(text, message, folder):
    written(text, folder)
    with pytest.raises(ConfigError, match=message):
        read("squares")


def test_unknown_names_bring_near_ones_and_two_files_of_one_name_are_refused(folder):
    written(WHOLE, folder)
    with pytest.raises(ConfigError, match="no experiment 'sqares'; did you mean 'squares'"):
        find("sqares")
    written(WHOLE, folder, chapter="data")
    with pytest.raises(ConfigError, match="two experiments are called 'squares'"):
        find("squares")


def test_a_file_of_ones_own_is_read_by_its_path(folder, tmp_path):
    path = written(WHOLE, tmp_path / "mine", chapter="hardware", name="own")
    assert (read(str(path)).name, read(str(path)).chapter) == ("own", "hardware")
    with pytest.raises(ConfigError, match="no file"):
        read(str(tmp_path / "none.yaml"))


def test_experiments_come_in_the_order_of_the_chapters(folder):
    for chapter in reversed(CHAPTERS):
        written(WHOLE, folder, chapter, f"of_{chapter}")
    assert names() == [f"of_{chapter}" for chapter in CHAPTERS]


@pytest.mark.parametrize(
    ("given", "pairs"),
    [
        (3, [(0, 0), (1, 1), (2, 2)]),
        ([5, 7], [(5, 5), (7, 7)]),
        ([[0, 1], [1, 0]], [(0, 1), (1, 0)]),
        ([3, [0, 1]], [(3, 3), (0, 1)]),
        ({"init": 2, "order": [4, 6]}, [(0, 4), (0, 6), (1, 4), (1, 6)]),
        ("2", [(0, 0), (1, 1)]),
        ("4,", [(4, 4)]),
        ("0,3", [(0, 0), (3, 3)]),
        ("0-1,1-0", [(0, 1), (1, 0)]),
        ("2x2", [(0, 0), (0, 1), (1, 0), (1, 1)]),
    ],
)
def test_seeds_are_written_in_several_ways(given, pairs):
    assert parse_seeds(given) == pairs


@pytest.mark.parametrize(
    "given", [0, -1, True, 1.5, None, [], [0, 0], [[1]], [-1], {"init": 2}, "x", "1-", "0", "2x0"]
)
def test_what_is_no_seeds_is_refused(given):
    with pytest.raises(ValueError, match="seed"):
        parse_seeds(given)


def test_names_of_seeds_tell_all_pairs_apart():
    pairs = parse_seeds({"init": 12, "order": 12})
    assert len({seed_name(*pair) for pair in pairs}) == 144
    assert (seed_name(3, 3), seed_name(0, 1)) == ("3", "0-1")


def problem(content, folder):
    path = written(content, folder)
    with pytest.raises(ConfigError) as caught:
        validate(parse(yaml.safe_load(path.read_text()), path))
    return str(caught.value)


def claim(**changes):
    return changed(claims=[{**WHOLE["claims"][0], **changes}])


def figure(**changes):
    return changed(published=[{**WHOLE["published"][0], **changes}])


GOOD = {"init": 1, "order": 1}


def test_an_experiment_that_makes_sense_passes(folder):
    path = written(with_function(WHOLE, **GOOD), folder)
    validate(read(str(path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (figure(seen="memory"), "a figure seen from memory must not stand as published"),
        (figure(seen="abstract"), "in the abstract only must not stand as published"),
        (figure(seen="a dream"), "seen must be one of official"),
        (figure(row="huge"), "unknown row 'huge'"),
        (figure(column="aera"), "unknown column 'aera'; did you mean 'area'"),
        (figure(where=" "), "where in the paper is empty"),
        (figure(spread=-1), "spread must not be negative"),
        (changed(published=WHOLE["published"][:1] * 2), "published: '2, area' is there twice"),
        (changed(columns=[*WHOLE["columns"], {"name": "area"}]), "columns: 'area' is there twice"),
        (claim(layer="full"), "claims.right.layer: the experiment has no layer 'full'"),
        (claim(claim="paired_diference"), "unknown kind 'paired_diference'; did you mean 'paired_difference'"),
        (claim(claim=""), "claims.right.claim: unknown kind ''"),
        (claim(of={"row": "bigg", "column": "accuracy"}), "unknown row 'bigg' in the layer small; did you mean 'big'"),
        (claim(of={"row": "big", "column": "size"}), "unknown column 'size'"),
        (claim(at_leest=3), "claims.right: .*'at_leest'"),
        (claim(frozen=None), "claims.right.frozen: is missing"),
        (claim(pilot=""), "claims.right.pilot: is missing"),
        (changed(layers={**WHOLE["layers"], "small": {"rows": {"2": [], "big": []}}}), "small.seeds: is missing"),
        (
            changed(layers={**WHOLE["layers"], "small": {**WHOLE["layers"]["small"], "seeds_of": {"bgi": 3}}}),
            "small.seeds_of: unknown row 'bgi'; did you mean 'big'",
        ),
        (changed(layers={**WHOLE["layers"], "full": {}}), "layers.full: makes no cell"),
        (
            changed(layers={**WHOLE["layers"], "full": {"rows": {"2": []}, "seeds": 1, "needs": {"gpu": 8}}}),
            "layers.full.needs.gpu: unknown; did you mean 'gpus'",
        ),
        (changed(layers={**WHOLE["layers"], "analytic": {"rows": {"2": []}}}), "the analytic layer computes and runs"),
        (changed(figure={"kind": "pie", "y": ["area"]}), "figure: kind must be one of"),
        (with_function(WHOLE, "effnlp.reproduce.seeds.seed_nam"), "no function 'seed_nam'; did you mean 'seed_name'"),
        (with_function(WHOLE, "effnlp.reproduce.nowhere.f"), "cannot be imported"),
        (with_function(WHOLE, "f"), "cannot be imported"),
        (with_function(WHOLE, init=1), "needs the argument 'order'"),
        (with_function(WHOLE, init=1, ordr=1), "no key 'ordr'.*did you mean 'order'"),
        (with_function(WHOLE, init=1, order="b"), "order must be a whole number, got 'b'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_runs(content, message, folder):
    if content["layers"].get("analytic") == WHOLE["layers"]["analytic"]:
        content = with_function(content, **GOOD)
    said = problem(content, folder)
    assert re.search(message, said), said
    assert said.startswith("model/squares.yaml:")


def test_a_chapter_that_is_none_is_refused(tmp_path):
    path = written(with_function(WHOLE, **GOOD), tmp_path, chapter="cookery")
    with pytest.raises(ConfigError, match="'cookery', which is no chapter"):
        validate(read(str(path)))


def test_a_claim_about_a_row_that_only_a_function_knows_is_judged_when_it_was_called(folder):
    content = claim(
        layer="analytic", of={"row": "later", "column": "area"}, to={"row": "big", "column": "area"}
    )
    table = {"computed": [{"function": "effnlp.reproduce.seeds.seed_name", "arguments": GOOD}]}
    path = written({**content, "layers": {**WHOLE["layers"], "analytic": table}}, folder)
    validate(read(str(path)))
    path = written({**content, "rows": ["big", 2], "layers": {**WHOLE["layers"], "analytic": table}}, folder)
    with pytest.raises(ConfigError, match="unknown row 'later'"):
        validate(read(str(path)))


def test_every_experiment_of_the_package_makes_sense():
    found = read_all()
    assert found
    for experiment in found:
        validate(experiment)
    assert experiments_dir().name == "experiments"


def test_every_file_of_an_experiment_lies_in_a_chapter():
    below = {path.parent.name for path in experiments_dir().glob("*/*.yaml")}
    assert below
    assert below <= set(CHAPTERS)


def test_the_file_that_the_documentation_shows_is_one(tmp_path):
    text = DOCUMENT.read_text(encoding="utf-8").partition("## An experiment is a file")[2]
    shown = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]
    made = read(str(written(shown, tmp_path)))
    assert set(made.layers) == {"analytic", "small", "full"}
    assert len(made.published) == 3
    assert len(made.layers["small"].seeds) == 3
