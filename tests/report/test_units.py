import random
import re

import pytest

from effnlp.report.units import direction, human, measured_name, scaled, unit

PREFIX = {
    "E": 1e18,
    "P": 1e15,
    "T": 1e12,
    "G": 1e9,
    "M": 1e6,
    "k": 1e3,
    "": 1,
    "m": 1e-3,
    "µ": 1e-6,
    "n": 1e-9,
}


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("infer/single_stream/flops", 1_200_000, "1.20 MFLOP"),
        ("model/bytes", 3_400_000, "3.40 MB"),
        ("infer/single_stream/latency_seconds_p50", 0.012, "12.0 ms"),
        ("val/accuracy", 0.85123, "0.8512"),
        ("val/accuracy", 1.0, "1.0000"),
        ("model/params", 22_700_000, "22.7 M"),
        ("data/labels", 6, "6"),
        ("cost/total/own/seconds", 5400, "90.0 min"),
        ("cost/total/own/seconds", 86_400, "24.0 h"),
        ("cost/total/own/energy_joules [estimated]", 0.00042, "420 µJ"),
        ("infer/fixed_batch/examples_per_second", 1234.5, "1.23 k/s"),
        ("model/bytes", 999_999, "1.00 MB"),
        ("infer/single_stream/flops", 0, "0.00 FLOP"),
    ],
)
def test_values_are_written_as_a_person_reads_them(key, value, text):
    assert human(key, value) == text


@pytest.mark.parametrize(
    "key", ["a/flops", "a/seconds", "model/bytes", "a/energy_joules", "a/examples_per_second"]
)
def test_what_is_written_is_within_half_a_percent_of_the_value(key):
    dice = random.Random(key)
    for _ in range(300):
        value = 10 ** dice.uniform(-6, 15 if key != "a/seconds" else 7)
        if unit(key) not in ("s", "J") and value < 1:
            continue
        number, symbol = re.fullmatch(r"([\d.]+) ?(.*)", human(key, value)).groups()
        base = {"h": 3600, "min": 60}.get(symbol) or PREFIX[symbol.removesuffix(unit(key))]
        assert float(number) * base == pytest.approx(value, rel=0.0051)


def test_an_interval_shares_the_unit_and_the_decimals_of_its_value():
    assert human("a/latency_seconds_p50", 0.012, 0.0004) == "12.0 ± 0.4 ms"
    assert human("val/accuracy", 0.85, 0.0123) == "0.8500 ± 0.0123"


def test_replicates_that_agree_exactly_are_written_without_an_interval():
    assert human("a/flops", 1e6, 0.0) == human("a/flops", 1e6, 1e-9) == human("a/flops", 1e6)


def test_quality_and_throughput_go_up_and_everything_else_down():
    up = [
        "val/accuracy",
        "test/f1_macro",
        "infer/fixed_batch/examples_per_second",
        "robustness/worst_accuracy",
    ]
    down = [
        "val/loss",
        "infer/single_stream/flops",
        "infer/single_stream/latency_seconds_p50",
        "cost/total/own/energy_joules [measured]",
        "model/params",
        "robustness/accuracy_drop",
        "fairness/accuracy_gap",
    ]
    assert {direction(key) for key in up} == {"maximize"}
    assert {direction(key) for key in down} == {"minimize"}


def test_the_remark_on_energy_is_no_part_of_the_name():
    assert measured_name("cost/total/own/energy_joules [measured]") == "energy_joules"
    assert scaled("a/energy_joules [estimated]", 5000.0) == (1e3, "kJ")
