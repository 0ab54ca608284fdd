import itertools

import pytest

from effnlp.compose import hydra_context
from effnlp.legality import IllegalCombinationError
from effnlp.search.covering import covering_points
from effnlp.search.space import parse

SPACES = [
    {f"k{i}": "a,b,c" for i in range(5)} | {"n": "range(0,9)", "r": "interval(0.0,1.0)"},
    {
        "model": "x,y,z",
        "q": "none,8,4",
        "model=x": {"peft": "none,lora,bitfit", "peft=lora": {"rank": "4,8", "n": "range(1,4)"}, "e": "p,q"},
        "model=y": {"peft": "none,lora", "peft=lora": {"rank": "1,2,3"}},
    },
    {"only": "a,b,c"},
    {"setting": "a", "model": "x,y", "model=x": {"other": "1"}},
]


def choices_of(space, point):
    return {(d.name, point[d.key]) for d in space.there(point) if d.choices}


@pytest.mark.parametrize("file", SPACES)
def test_every_two_choices_that_can_be_made_together_are(file):
    space, _ = parse(file, [])
    finite = parse({key: value for key, value in file.items() if key != "r"}, [])[0]
    possible = set()
    for point in itertools.islice(finite.points(), 200_000):
        made = choices_of(finite, point)
        possible |= {frozenset(pair) for pair in itertools.product(made, made)}
    points = covering_points(space, 1000)
    covered = set()
    for point in points:
        assert {d.key for d in space.there(point)} == set(point)
        assert all(d.fitting(point[d.key]) == point[d.key] for d in space.there(point))
        made = choices_of(space, point)
        covered |= {frozenset(pair) for pair in itertools.product(made, made)}
    assert covered == possible
    assert len(points) <= len(possible)


def test_few_points_cover_what_would_be_many():
    space, _ = parse({f"k{i}": "a,b,c,d" for i in range(12)}, [])
    assert 16 <= len(covering_points(space, 1000)) <= 40


def test_the_first_points_hold_the_most_and_there_are_never_more_than_asked():
    space, _ = parse(SPACES[1], [])
    every = covering_points(space, 1000)
    assert covering_points(space, 5) == every[:5]
    assert covering_points(space, 1000) == every
    assert covering_points(parse({}, [])[0], 3) == [{}]


def test_numbers_take_both_of_their_ends():
    space, _ = parse(SPACES[0], [])
    points = covering_points(space, 1000)
    assert {"0", "8"} <= {point["n"] for point in points}
    assert {0.0, 1.0} <= {float(point["r"]) for point in points}


def test_an_illegal_corner_that_two_choices_make_is_always_among_them():
    from effnlp.compose import compose
    from effnlp.legality import check
    from effnlp.menu import conf_dir

    space, _ = parse(
        {"model": "bag_of_ngrams,backbone", "peft": "none,lora,bitfit", "trainer.epochs": "range(1,9)"}, []
    )
    refused = []
    with hydra_context():
        for point in covering_points(space, 100):
            composed = compose([f"{key}={value}" for key, value in point.items()])
            try:
                check(composed.config, composed.chosen, [conf_dir()])
            except IllegalCombinationError:
                refused.append((point["model"], point["peft"]))
    assert ("bag_of_ngrams", "bitfit") in refused
