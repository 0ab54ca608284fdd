import random

import pytest

from effnlp.report.candidates import Candidate, Estimate, pool
from effnlp.report.choose import Limit, check_keys, choose, in_words, overlap, total_excess
from effnlp.report.read import Loaded
from effnlp.report.units import DOWN, UP, direction

ACCURACY, BYTES, LATENCY = "val/accuracy", "model/bytes", "infer/single_stream/latency_seconds_p50"


def candidate(name, absent=None, **values):
    """``accuracy=0.9`` or, with a half-width, ``accuracy=(0.9, 0.01)``."""
    keys = {"accuracy": ACCURACY, "bytes": BYTES, "latency": LATENCY}
    estimates = {}
    for short, value in values.items():
        mean, half = value if isinstance(value, tuple) else (value, None)
        estimates[keys[short]] = Estimate(mean, half, 1 if half is None else 3)
    return Candidate(name, (), {"model": name}, {}, estimates, absent or {})


def many(seed=0, count=40):
    dice = random.Random(seed)
    return [
        candidate(f"{i:02d}", accuracy=round(dice.random(), 1), bytes=dice.choice([1.0, 2.0, 5.0, 9.0]))
        for i in range(count)
    ]


LIMITS = [Limit(BYTES, 5.0, True), Limit(ACCURACY, 0.3, False)]


@pytest.mark.parametrize("towards", [UP, DOWN])
def test_the_pick_is_within_all_limits_and_nothing_within_them_is_better(towards):
    candidates = many()
    choice = choose(candidates, LIMITS, ACCURACY, towards)
    inside = [
        c for c in candidates if c.values[BYTES].mean <= 5 and c.values[ACCURACY].mean >= 0.3
    ]  # slow reference
    assert 0 < len(inside) < len(candidates)
    assert {c.config_hash for c in choice.fitting} == {c.config_hash for c in inside}
    means = [c.values[ACCURACY].mean for c in choice.fitting]
    assert means == sorted(means, reverse=towards == UP)
    assert len(choice.fitting) + len(choice.misses) == len(candidates)


def test_the_choice_does_not_depend_on_the_order_in_which_runs_were_read():
    candidates = many()
    expected = choose(candidates, LIMITS, ACCURACY, UP)
    for seed in range(5):
        shuffled = random.Random(seed).sample(candidates, len(candidates))
        assert choose(shuffled, LIMITS, ACCURACY, UP) == expected


def test_a_value_at_the_limit_is_within_it():
    assert choose([candidate("a", accuracy=0.5, bytes=5.0)], LIMITS, ACCURACY, UP).fitting
    assert choose([candidate("a", accuracy=0.3, bytes=5.0)], LIMITS, ACCURACY, UP).fitting


def test_of_equals_the_one_that_leaves_more_room_is_picked():
    candidates = [candidate("a", accuracy=0.9, bytes=4.0), candidate("b", accuracy=0.9, bytes=2.0)]
    assert choose(candidates, LIMITS, ACCURACY, UP).fitting[0].config_hash == "b"


def test_what_lacks_a_key_is_passed_over_and_counted_with_the_reason():
    candidates = [
        candidate("a", accuracy=0.9, bytes=1.0, latency=0.1),
        candidate("b", {LATENCY: "latency was not asked for"}, accuracy=0.95, bytes=1.0),
        candidate("c", {LATENCY: "latency was not asked for"}, accuracy=0.95, bytes=9.0),
        candidate("d", accuracy=0.95, bytes=1.0),
    ]
    choice = choose(candidates, [Limit(LATENCY, 1.0, True)], ACCURACY, UP)
    assert [c.config_hash for c in choice.fitting] == ["a"]
    assert choice.passed_over == {(LATENCY, "latency was not asked for"): 2, (LATENCY, "not recorded"): 1}


def test_misses_come_nearest_first_and_say_by_how_much():
    candidates = [
        candidate("far", accuracy=0.9, bytes=9.0), candidate("near", accuracy=0.29, bytes=5.5),
        candidate("nearest", accuracy=0.1, bytes=5.1), candidate("both", accuracy=0.15, bytes=10.5),
    ]  # fmt: skip
    limits = [Limit(BYTES, 5.0, True), Limit(ACCURACY, 0.1, False)]
    choice = choose(candidates, limits, ACCURACY, UP)
    assert choice.fitting == []
    assert [c.config_hash for c in choice.misses] == ["nearest", "near", "far", "both"]
    assert in_words(choice.misses[1], limits) == ["model/bytes 5.50 B, 10% above 5.00 B"]
    assert in_words(choice.misses[3], limits) == ["model/bytes 10.5 B, 5.50 B above 5.00 B"]
    assert in_words(candidates[2], [Limit(ACCURACY, 0.2, False)]) == ["val/accuracy 0.1000, 50% below 0.2000"]
    excesses = [total_excess(c, limits) for c in choice.misses]
    assert excesses == sorted(excesses)
    assert excesses[0] > 0


def test_a_limit_of_zero_can_be_missed_too():
    assert Limit(BYTES, 0.0, True).excess(3.0) == 3.0
    assert Limit(BYTES, 0.0, True).excess(-1.0) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0.90, 0.02), (0.87, 0.02), True),
        ((0.90, 0.01), (0.87, 0.01), False),
        ((0.90, 0.05), (0.87, None), True),
        ((0.90, None), (0.90, None), False),
    ],
)
def test_rivals_are_those_whose_intervals_reach_the_interval_of_the_best(one, other, expected):
    assert overlap(Estimate(*one, 3), Estimate(*other, 3)) is expected
    assert overlap(Estimate(*other, 3), Estimate(*one, 3)) is expected
    candidates = [candidate("a", accuracy=one), candidate("b", accuracy=other)]
    rivals = choose(candidates, [], ACCURACY, UP).rivals
    assert [c.config_hash for c in rivals] == (["b"] if expected else [])


def test_a_limit_is_sure_only_if_the_whole_interval_is_within():
    limit = Limit(BYTES, 5.0, True)
    assert limit.is_sure(Estimate(4.0, 0.9, 3))
    assert not limit.is_sure(Estimate(4.0, 1.1, 3))
    assert not Limit(ACCURACY, 0.8, False).is_sure(Estimate(0.81, 0.02, 3))


def test_an_unknown_key_gets_those_near_it():
    candidates = [candidate("a", {LATENCY: "not asked for"}, accuracy=0.9, bytes=1.0)]
    with pytest.raises(ValueError, match=r"no record has the key model/byte; did you mean 'model/bytes'"):
        choose(candidates, [Limit("model/byte", 1.0, True)], ACCURACY, UP)
    with pytest.raises(ValueError, match=r"no record has the key zzz; there is .*val/accuracy"):
        check_keys(candidates, ["zzz"])
    check_keys(candidates, [LATENCY])


def test_the_means_of_replicates_decide(make_record):
    lucky, steady = make_record("backbone"), [make_record("pretrained", seed=s) for s in range(3)]
    other = make_record("backbone", seed=1)
    lucky.values[ACCURACY], other.values[ACCURACY] = 0.99, 0.41
    for record in steady:
        record.values[ACCURACY] = 0.8
    candidates = pool(Loaded(record, None) for record in (lucky, other, *steady))
    assert direction(ACCURACY) == UP
    assert choose(candidates, [], ACCURACY, UP).fitting[0].choices["model"] == "pretrained"
