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
        ({"model": {"x": "1,2"}}, [], "must be KEY=VALUE, the choice that brings them"),
        ({"model": "aa,b", "model=a": {"x": "1,2"}}, [], r"model takes aa, b; did you mean 'aa'"),
        (
            {"m": "a,b", "m=a": {"p": "x,y"}, "p=x": {"r": "1,2"}},
            [],
            "p is a dimension only when m=a: put p=x inside of that",
        ),
        (
            {"x": "interval(0.0,1.0)", "x=0.5": {"y": "1,2"}},
            [],
            "x is a continuum, which is never exactly that",
        ),
        ({"n": "range(1,4)", "n=4": {"y": "1,2"}}, [], r"n takes 1\.\.3"),
        ({"a": "1,2", "model": "p,q", "model=p": {"a": "3,4"}}, [], "a is a dimension twice when model=p"),
        ({"a": "1,2", "+a": "1,2"}, [], r"\+a=1,2: a dimension varies what is there"),
        ({"a": []}, [], "a dimension needs a value, got an empty list"),
        ({"a": "range(3,3)"}, [], "a range has a number in it"),
        ({"a": "tag(log,range(0,3))"}, [], "a logarithmic one is above 0"),
        ({"a": "range(0,1,-1)"}, [], "nothing is in it"),
        ({"peft": "glob(lorra*)"}, [], "no choice matches lorra.*; there is none, "),
        ({"pfet": "glob(*)"}, [], "there is no group pfet"),
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


# Conditions within conditions

NESTED = {
    "model": "bag_of_ngrams,backbone,pretrained",
    "model=pretrained": {
        "peft": "none,lora",
        "peft=lora": {"peft.rank": "tag(log, int(interval(2, 64)))", "peft.alpha": "8,16"},
    },
    "model=backbone": {"peft": "none,bitfit,lora", "peft=lora": {"peft.rank": "4,8"}},
}


def test_a_choice_within_a_choice_brings_its_own_dimensions():
    space, _ = parse(NESTED, [])
    seen = set()
    for point in points(space):
        is_lora = point.get("peft") == "lora"
        assert ("peft.rank" in point) == is_lora
        assert ("peft.alpha" in point) == (is_lora and point["model"] == "pretrained")
        if is_lora and point["model"] == "backbone":
            assert point["peft.rank"] in ("4", "8")
        seen.add((point["model"], point.get("peft")))
    assert seen == {
        ("bag_of_ngrams", None), ("backbone", "none"), ("backbone", "bitfit"), ("backbone", "lora"),
        ("pretrained", "none"), ("pretrained", "lora"),
    }  # fmt: skip


def test_what_is_fixed_on_the_command_line_opens_or_closes_conditions_at_any_depth():
    assert set(by_name(parse(NESTED, ["model=pretrained", "peft=lora"])[0])) == {"peft.rank", "peft.alpha"}
    assert set(by_name(parse(NESTED, ["peft=lora"])[0])) == {
        "model", "model=pretrained/peft.rank", "model=pretrained/peft.alpha", "model=backbone/peft.rank",
    }  # fmt: skip
    assert set(by_name(parse(NESTED, ["model=bag_of_ngrams"])[0])) == set()
    offered = parse(NESTED, ["peft=none,bitfit"])[0]
    assert set(by_name(offered)) == {"model", "peft"}


def test_a_condition_on_a_value_with_slashes_is_told_apart_from_a_group_with_slashes():
    file = {
        "data": "a,a/b",
        "data=a/b": {"c": "1,2"},
        "data=a": {"b/c": "3,4"},
    }
    space, _ = parse(file, [])
    names = [dimension.name for dimension in space.dimensions]
    assert len(set(names)) == 3
    for point in points(space):
        assert point.keys() == {"data", "c" if point["data"] == "a/b" else "b/c"}


def test_a_condition_may_be_about_a_whole_number_or_a_value_that_is_written_otherwise():
    space, _ = parse(
        {"epochs": "range(1,4)", "rate": "1e-3,1e-2", "epochs=2": {"a": "1,2"}, "rate=0.01": {"b": "1,2"}}, []
    )
    drawn = points(space)
    assert {("a" in p, p["epochs"] == "2") for p in drawn} == {(True, True), (False, False)}
    assert {("b" in p, p["rate"] == "0.01") for p in drawn} == {(True, True), (False, False)}
    assert space.combinations() == len(list(space.points())) == (2 + 2) * (1 + 2)


# Values


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        ("'x,y',z", ("'x,y'", "z")),
        (["x,y", "z"], ("'x,y'", "z")),
        (["it's, so", None, True], (r"'it\'s, so'", "null", "True")),
        ([["exact_dedup", "minhash_dedup"], "none"], ("[exact_dedup,minhash_dedup]", "none")),
        ("[exact_dedup, minhash_dedup],none", ("[exact_dedup,minhash_dedup]", "none")),
        ("choice(b,a)", ("b", "a")),
        ("shuffle(1,2,3)", ("1", "2", "3")),
        ("1e-3,0.001,0.01", ("0.001", "0.01")),
        ("org/one,org/two", ("org/one", "org/two")),
        ("range(0,10,5)", ("0", "5")),
        (["interval(0,1)", "x"], ("'interval(0,1)'", "x")),
    ],
)
def test_values_are_read_as_what_they_are(value, choices):
    (dimension,) = parse({"key": value}, [])[0].dimensions
    assert dimension.choices == choices


def test_glob_stands_for_the_choices_of_a_group():
    from effnlp.menu import choice_names, conf_dir

    (dimension,) = parse({"compression/quantization": "glob(*)"}, [])[0].dimensions
    assert list(dimension.choices) == choice_names("compression/quantization", [conf_dir()])
    (some,) = parse({}, ["compression/quantization=glob(int8_*,exclude=*dynamic)"])[0].dimensions
    assert some.choices
    assert all(c.startswith("int8_") and not c.endswith("dynamic") for c in some.choices)


def test_glob_finds_the_choices_of_a_users_folder(tmp_path):
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "mine.yaml").write_text("_target_: mine.mine\n")
    (dimension,) = parse({}, ["peft=glob(mi*)"], [tmp_path])[0].dimensions
    assert dimension.choices == ("mine",)


def test_whole_numbers_on_a_logarithmic_scale_favour_small_ones():
    space, _ = parse({"rank": "tag(log, int(interval(1, 64)))"}, [])
    drawn = [int(point["rank"]) for point in points(space, 400)]
    assert min(drawn) >= 1
    assert max(drawn) <= 64
    assert 0.35 < sum(rank <= 8 for rank in drawn) / 400 < 0.65
    assert space.combinations() == 64


@pytest.mark.parametrize("text", ["1,2,3", "range(-2,3)", "int(interval(3,8))", "tag(log,range(1,9))"])
def test_equal_steps_through_a_dimension_give_every_value_its_share(text):
    (dimension,) = parse({"x": text}, [])[0].dimensions
    n = 5040
    steps = [dimension.at((i + 0.5) / n) for i in range(n)]
    assert set(steps) == set(dimension.values())
    assert (dimension.at(0.0), dimension.at(1.0)) == (steps[0], steps[-1])
    if not dimension.log:
        counts = [steps.count(value) for value in dimension.values()]
        assert max(counts) - min(counts) <= 1


def test_a_continuum_is_gone_through_on_its_scale_to_both_ends():
    linear, log = parse({"x": "interval(2.0,4.0)", "y": "tag(log,interval(1e-4,1e-2))"}, [])[0].dimensions
    assert [float(linear.at(f)) for f in (0, 0.5, 1)] == [2, 3, 4]
    assert float(log.at(0.5)) == pytest.approx(1e-3)
    assert (float(log.at(0)), float(log.at(1))) == (1e-4, 1e-2)
    with pytest.raises(ValueError, match="x is a continuum"):
        linear.values()


SPACES = [
    FILE,
    NESTED,
    {"a": "1", "b": "range(3,4)", "c": "x,y"},
    {"a": ["x,y", "[1,2]"], "a=[1, 2]": {"b": "interval(0.0,1.0)", "c": "range(1,3)", "c=2": {"d": "p,q"}}},
    {"n": "tag(log,int(interval(1,3000)))", "m": "interval(-1.0,1.0)"},
    {},
]


@pytest.mark.parametrize("file", SPACES)
def test_what_is_drawn_is_inside_and_is_the_point_of_its_parameters(file):
    space, _ = parse(file, [])
    names = [dimension.name for dimension in space.dimensions]
    assert len(set(names)) == len(names)
    distributions = {}
    for point in points(space, 60):
        assert set(point) == {d.key for d in space.there(point)}
        for dimension in space.there(point):
            assert dimension.fitting(point[dimension.key]) == point[dimension.key]
        parameters = space.parameters(point)
        for dimension in space.there(point):
            distribution = dimension.distribution()
            assert distributions.setdefault(dimension.name, distribution) == distribution
            internal = distribution.to_internal_repr(parameters[dimension.name])
            assert distribution._contains(internal)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
        study.enqueue_trial(parameters)
        trial = study.ask()
        assert space.sample(trial) == point
        assert trial.params == parameters
        assert trial.distributions == {name: distributions[name] for name in parameters}


@pytest.mark.parametrize(
    "file", [file for file in SPACES if "interval(" not in str(file) or "int(" in str(file)]
)
def test_the_points_are_all_there_are_each_once(file):
    space, _ = parse(file, [])
    if space.combinations() is None:
        return
    listed = [tuple(sorted(point.items())) for point in space.points()]
    assert len(listed) == len(set(listed)) == space.combinations()
    assert {tuple(sorted(point.items())) for point in points(space, 300)} <= set(listed)


def test_points_are_counted_without_going_through_them():
    huge = {f"k{i}": "a,b,c,d,e" for i in range(40)} | {"k0=a": {"x": "range(0,1000000)"}}
    assert parse(huge, [])[0].combinations() == 5**39 * (4 + 1_000_000)


def test_a_point_may_be_written_otherwise_than_the_space():
    space, _ = parse(
        {"rate": "1e-3,1e-2", "data/filter": "none,[exact_dedup,minhash_dedup]", "n": "range(0,9)"}, []
    )
    assert space.parameters(
        {"rate": "1e-2", "data/filter": "['exact_dedup', 'minhash_dedup']", "n": "4.0"}
    ) == {"rate": "0.01", "data/filter": "[exact_dedup,minhash_dedup]", "n": 4}


def test_a_space_survives_json():
    import json
    from dataclasses import asdict

    from effnlp.search.space import Dimension, Space

    for file in SPACES:
        space, _ = parse(file, [])
        entries = json.loads(json.dumps([asdict(d) for d in space.dimensions]))
        assert Space(tuple(Dimension(**entry) for entry in entries)) == space


@pytest.mark.parametrize("file", [{}, {"compression/distillation": "none,logits,hidden"}])
def test_a_value_of_a_key_that_some_choices_lack_is_set_where_it_is_there(file):
    """A teacher, say: it needs no dimension of its own."""
    typed = [] if file else ["compression/distillation=none,logits,hidden"]
    teacher = "['model=pretrained','trainer.epochs=2']"
    space, fixed = parse(file, [*typed, f"compression.distillation.teacher={teacher}", "trainer.epochs=1"])
    assert fixed == ["trainer.epochs=1"]
    found = {point["compression/distillation"]: point for point in space.points()}
    assert len(found) == 3
    assert "compression.distillation.teacher" not in found["none"]
    assert {found[name]["compression.distillation.teacher"] for name in ("logits", "hidden")} == {teacher}
    assert space.combinations() == 3


def test_a_value_of_a_key_that_all_choices_have_or_none_stays_as_it_is_typed():
    of_all = "compression.distillation.alpha=0.3"
    _, fixed = parse({}, ["compression/distillation=logits,hidden", of_all])
    assert fixed == [of_all]
    _, fixed = parse({}, ["compression/distillation=none,logits", "compression.distillation.tutor=x"])
    assert fixed == ["compression.distillation.tutor=x"], "and is refused when it is composed"
