import itertools

import optuna
import pytest

from effnlp.compose import ConfigError
from effnlp.search.space import parse

FILE = {
    "model": "bag_of_ngrams,backbone",
    "finetuning.learning_rate": "tag(log, interval(1e-4, 1e-2))",
    "model=backbone": {"model.size": "tiny,small", "peft": ["none", "lora"]},
    "model=bag_of_ngrams": {"model.width": "range(4,8)"},
}


def by_name(space):
    return {dimension.name: dimension for dimension in space.dimensions}


def points(space, count=200):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space.sample(study.ask()) for _ in range(count)]


@pytest.fixture(autouse=True)
def silence():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_choices_intervals_ranges_and_conditions_are_read_from_a_file():
    space, fixed = parse(FILE, [])
    found = by_name(space)
    assert fixed == []
    assert found["model"].choices == ("bag_of_ngrams", "backbone")
    rate = found["finetuning.learning_rate"]
    assert (rate.low, rate.high, rate.log, rate.integer) == (1e-4, 1e-2, True, False)
    assert found["model=backbone/peft"].choices == ("none", "lora")
    width = found["model=bag_of_ngrams/model.width"]
    assert (width.low, width.high, width.integer) == (4, 7, True)


def test_names_are_unique_so_that_no_parameter_ever_changes_its_values():
    both = {"model": "a,b", "model=a": {"size": "1,2"}, "model=b": {"size": "3,4"}}
    space, _ = parse(both, [])
    names = [dimension.name for dimension in space.dimensions]
    assert sorted(set(names)) == sorted(names) == ["model", "model=a/size", "model=b/size"]
    for point in points(space):
        assert point["size"] in (("1", "2") if point["model"] == "a" else ("3", "4"))


def test_a_dimension_is_there_only_where_its_condition_is_met():
    for point in points(parse(FILE, [])[0]):
        is_backbone = point["model"] == "backbone"
        assert ("model.size" in point) == ("peft" in point) == is_backbone
        assert ("model.width" in point) == (not is_backbone)
        assert 1e-4 <= float(point["finetuning.learning_rate"]) <= 1e-2


def test_a_plain_override_fixes_a_dimension_and_what_hangs_on_it():
    space, fixed = parse(FILE, ["model=backbone", "trainer.epochs=1"])
    assert fixed == ["model=backbone", "trainer.epochs=1"]
    assert set(by_name(space)) == {"finetuning.learning_rate", "model.size", "peft"}


def test_a_sweep_on_the_command_line_replaces_a_dimension():
    space, fixed = parse(FILE, ["model=backbone,pretrained", "finetuning.learning_rate=1e-3,1e-4"])
    found = by_name(space)
    assert fixed == []
    assert found["model"].choices == ("backbone", "pretrained")
    assert found["finetuning.learning_rate"].choices == ("0.001", "0.0001")
    assert "model=bag_of_ngrams/model.width" not in found
    assert "model=backbone/model.size" in found


def test_the_command_line_alone_is_a_space():
    space, fixed = parse(
        {}, ["a=1,2", "b=int(interval(1,9))", "c=range(0,3)", "d=tag(log,interval(0.1,1))", "e=x"]
    )
    found = by_name(space)
    assert fixed == ["e=x"]
    assert (found["b"].low, found["b"].high, found["b"].integer) == (1, 9, True)
    assert (found["c"].low, found["c"].high) == (0, 2)
    assert found["d"].log
    assert not found["d"].integer


def test_lists_are_choices_too():
    space, _ = parse({}, ["data/filter=none,[exact_dedup,minhash_dedup]"])
    assert space.dimensions[0].choices == ("none", "[exact_dedup,minhash_dedup]")


@pytest.mark.parametrize(
    "file",
    [
        {"a": "1,2,3", "b": "x,y"},
        {"a": "1,2,3", "a=2": {"b": "x,y,z", "c": "range(0,4)"}, "d": "p,q"},
        {"a": "1,2", "a=1": {"b": "x,y"}, "a=2": {"b": "z"}},
    ],
)
def test_the_number_of_combinations_equals_brute_force(file):
    space, _ = parse(file, [])
    drawn = {tuple(sorted(point.items())) for point in points(space, 2000)}
    listed = [tuple(sorted(point.items())) for point in space.points()]
    assert len(listed) == len(set(listed)) == space.combinations()
    assert set(listed) == drawn


def test_a_continuum_has_no_number_of_combinations():
    assert parse(FILE, [])[0].combinations() is None


def test_what_is_drawn_can_be_asked_for():
    space, _ = parse(FILE, [])
    for point in points(space, 30):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
        study.enqueue_trial(space.parameters(point))
        assert space.sample(study.ask()) == point


@pytest.mark.parametrize(
    ("file", "overrides", "said"),
    [
        ({"model": "a,b", "modle=a": {"x": "1,2"}}, [], r"modle is no dimension; did you mean 'model'"),
        ({"model": "a,b", "model=c": {"x": "1,2"}}, [], r"there when model=c, but model takes a, b"),
        ({"model": {"x": "1,2"}}, [], "must be KEY=VALUE at the top level"),
        ({}, ["a=interval(2,1)"], "an interval rises"),
        ({}, ["a=tag(log,interval(0,1))"], "a logarithmic one is above 0"),
        ({}, ["a=1,2", "a=3"], "a is given twice"),
        ({}, ["a=[1,2"], "does not parse"),
    ],
)
def test_what_makes_no_space_is_refused_with_what_is_wrong(file, overrides, said):
    with pytest.raises(ConfigError, match=said):
        parse(file, overrides)


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"modle": "backbone"}, r"did you mean 'model'"),
        ({"model": "backbon"}, r"did you mean 'backbone'"),
        ({"model": "backbone", "model.width": "4"}, "model.width is not a dimension"),
        ({"finetuning.learning_rate": "1"}, "takes a number from 0.0001 to 0.01, got 1"),
        ({"model": "bag_of_ngrams", "model.width": "wide"}, "takes a whole number from 4 to 7, got wide"),
    ],
)
def test_a_first_point_outside_of_the_space_is_refused(point, said):
    with pytest.raises(ConfigError, match=said):
        parse(FILE, [])[0].parameters(point)


def test_parameters_that_a_point_leaves_open_are_left_open():
    assert parse(FILE, [])[0].parameters({"model": "backbone", "peft": "lora"}) == {
        "model": "backbone",
        "model=backbone/peft": "lora",
    }
    assert list(itertools.islice(parse({}, [])[0].points(), 2)) == [{}]


def test_a_dimension_of_one_value_does_not_vary_and_all_others_do():
    space, _ = parse({"trainer.epochs": 3, "peft": "none,lora", "seed.init": "range(0,4)"}, [])
    assert {d.key: d.varies for d in space.dimensions} == {
        "trainer.epochs": False,
        "peft": True,
        "seed.init": True,
    }
