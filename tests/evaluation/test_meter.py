import json

import pytest
import torch

from effnlp.evaluation.carbon import CarbonIntensity
from effnlp.evaluation.energy import EnergyMeter
from effnlp.evaluation.flops import FlopCount
from effnlp.evaluation.meter import PEAKS, SUMMED, Meter, StageCost, cost_values, machine_meter
from effnlp.evaluation.power import Sample
from effnlp.evaluation.presence import Presence

GRAMS_PER_JOULE = 0.01
CARBON = CarbonIntensity(GRAMS_PER_JOULE * 3.6e6, "a test", is_default=False)


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class FakeDomain:
    """5 W, all of them this run's."""

    name, method, idle_watts, constants = "fake", "measured", 0.0, {"idle_watts": 0.0}

    def __init__(self, clock, method="measured"):
        self.clock, self.method, self.fails = clock, method, False

    def sample(self):
        if self.fails:
            raise OSError("no such sensor")
        return Sample(5 * self.clock(), self.clock(), self.clock(), 1)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def domain(clock):
    return FakeDomain(clock)


@pytest.fixture
def make(clock, domain):
    """Makes meters on the fake machine, two busy cores each."""
    made = []

    def meter(domain=domain):
        energy = EnergyMeter([domain], clock=clock, period_seconds=3600)
        made.append(Meter(energy, CARBON, clock, cpu_seconds=lambda: 2 * clock()))
        return made[-1]

    yield meter
    for meter in made:
        meter.stop()


def spend(meter, clock, stage, seconds, flops=0.0):
    with meter.stage(stage):
        clock.now += seconds
        meter.add_flops(FlopCount({"aten.mm": flops}))


def test_a_stage_is_charged_what_passed_inside_it(make, clock):
    meter = make()
    clock.now += 100
    spend(meter, clock, "finetuning", 10, flops=7)
    clock.now += 100
    cost = meter.costs()["finetuning"]
    assert (cost.seconds, cost.cpu_seconds, cost.flops, cost.energy_joules) == (10, 20, 7, 50)
    assert cost.co2e_grams == pytest.approx(50 * GRAMS_PER_JOULE)
    assert cost.peak_memory_bytes > 1e6
    assert cost.waiting_seconds == 0


def test_a_stage_entered_again_adds_up(make, clock):
    once, often = make(), make()
    spend(once, clock, "finetuning", 10, flops=7)
    for seconds, flops in ((1, 3), (9, 4)):
        clock.now += 100
        spend(often, clock, "finetuning", seconds, flops)
    first, second = once.costs()["finetuning"], often.costs()["finetuning"]
    for key in SUMMED:
        assert getattr(first, key) == pytest.approx(getattr(second, key)), key


def test_the_stages_sum_to_the_total_and_peaks_are_maxima(make, clock):
    meter = make()
    for stage, seconds in (("data", 3), ("finetuning", 10), ("evaluation", 2), ("finetuning", 4)):
        spend(meter, clock, stage, seconds, flops=seconds * 11)
    with meter.stage("compression"):
        block = torch.ones(20_000_000)
        meter.add_flops(FlopCount())
        del block
    costs, total = meter.costs(), meter.total
    assert list(costs) == ["data", "finetuning", "compression", "evaluation"]
    for key in SUMMED:
        assert getattr(total, key) == pytest.approx(sum(getattr(cost, key) for cost in costs.values())), key
    assert total.seconds == 19
    assert total.peak_memory_bytes == max(cost.peak_memory_bytes for cost in costs.values())
    assert total.peak_memory_bytes == costs["compression"].peak_memory_bytes


def test_the_flat_keys_sum_to_the_total_too(make, clock):
    meter = make()
    for stage, seconds in (("data", 3), ("finetuning", 10)):
        spend(meter, clock, stage, seconds, flops=seconds)
    measured = meter.as_values("own")
    for key in SUMMED:
        parts = [measured.values[f"cost/{stage}/own/{key}"] for stage in ("data", "finetuning")]
        assert measured.values[f"cost/total/own/{key}"] == pytest.approx(sum(parts)), key
    assert set(measured.values) | set(measured.absent) == {
        f"cost/{stage}/own/{key}" for stage in ("data", "finetuning", "total") for key in (*SUMMED, *PEAKS)
    }


def test_waiting_is_reported_apart_and_costs_nothing(make, clock):
    meter = make()
    with meter.stage("finetuning"):
        clock.now += 10
        with meter.paused():
            clock.now += 30
        meter.waiting(2)  # somebody else's clock: part of the ten seconds
    cost = meter.costs()["finetuning"]
    assert cost.seconds == 8
    assert cost.waiting_seconds == 32
    assert cost.energy_joules == pytest.approx(50)


def test_flops_that_nobody_counted_are_absent_not_zero(make, clock):
    meter = make()
    spend(meter, clock, "data", 1)
    with meter.stage("finetuning"):
        clock.now += 1
    measured = meter.as_values()
    assert measured.values["cost/data/own/flops"] == 0
    assert "no FLOPs were counted" in measured.absent["cost/finetuning/own/flops"]
    assert "finetuning: no FLOPs were counted" in measured.absent["cost/total/own/flops"]


def test_an_uncounted_operator_leaves_stage_and_total_without_flops_and_is_named(make, clock):
    meter = make()
    spend(meter, clock, "data", 1)
    with meter.stage("finetuning"):
        meter.add_flops(FlopCount({"aten.mm": 5}, {"my.op": 2}))
    measured = meter.as_values()
    assert meter.costs()["finetuning"].uncounted == {"my.op": 2}
    assert "my.op" in measured.absent["cost/finetuning/own/flops"]
    assert "my.op" in measured.absent["cost/total/own/flops"]
    assert meter.total.flops is None


def test_a_stage_can_count_everything_inside_it(make):
    meter = make()
    with meter.stage("compression", count_flops=True):
        torch.ones(2, 3) @ torch.ones(3, 2)
    assert meter.costs()["compression"].flops == 24
    with meter.stage("data", count_flops=True):
        pass
    assert meter.costs()["data"].flops == 0


def test_a_failing_sensor_leaves_a_reason_in_its_stage_and_in_the_total(make, clock, domain):
    meter = make()
    spend(meter, clock, "data", 1)
    domain.fails = True
    spend(meter, clock, "finetuning", 1)
    measured = meter.as_values()
    assert measured.values["cost/data/own/energy_joules"] == 5
    for key in ("energy_joules", "co2e_grams"):
        assert "no such sensor" in measured.absent[f"cost/finetuning/own/{key}"]
        assert "finetuning: " in measured.absent[f"cost/total/own/{key}"]
    assert measured.values["cost/finetuning/own/seconds"] == 1


def test_a_stage_that_fails_is_charged_all_the_same(make, clock):
    meter = make()

    def fail():
        with meter.stage("finetuning", count_flops=True):
            clock.now += 3
            torch.ones(2, 3) @ torch.ones(3, 2)
            raise ZeroDivisionError("the stage fails")

    with pytest.raises(ZeroDivisionError, match="the stage fails"):
        fail()
    assert meter.costs()["finetuning"].seconds == 3
    assert meter.costs()["finetuning"].flops == 24
    spend(meter, clock, "evaluation", 1)


def test_an_interrupted_run_carries_what_it_had_spent(make, clock):
    whole, first, second = make(), make(), make()
    for meter in (whole, first):
        spend(meter, clock, "data", 3, flops=1)
    with first.stage("finetuning"):
        first.add_flops(FlopCount({"aten.mm": 5}, {}))
        clock.now += 4
        state = json.loads(json.dumps(first.state()))  # a checkpoint in the middle of the stage
    second.load_state(state)
    spend(second, clock, "finetuning", 6, flops=6)
    spend(whole, clock, "finetuning", 10, flops=11)
    for key in SUMMED:
        assert getattr(second.total, key) == pytest.approx(getattr(whole.total, key)), key


def test_reading_the_costs_in_between_changes_nothing(make, clock):
    meter = make()
    with meter.stage("finetuning"):
        for _ in range(5):
            clock.now += 2
            meter.costs()
            meter.state()
    assert meter.costs()["finetuning"].seconds == 10
    assert meter.costs()["finetuning"].energy_joules == pytest.approx(50)


def test_measured_and_estimated_energy_of_one_run_are_not_added(make, clock):
    first, second = make(), make(FakeDomain(clock, "estimated"))
    spend(first, clock, "data", 1)
    second.load_state(first.state())
    spend(second, clock, "finetuning", 1)
    assert second.total.energy_joules is None
    assert "estimated" in second.total.reasons["energy_joules"]


def test_stages_are_named_and_do_not_nest(make, clock):
    meter = make()
    with pytest.raises(ValueError, match=r"unknown stage .training..*finetuning"), meter.stage("training"):
        pass
    with meter.stage("data"), pytest.raises(RuntimeError, match="do not nest"), meter.stage("evaluation"):
        pass
    with pytest.raises(RuntimeError, match="no stage is open"):
        meter.add_flops(FlopCount())
    with meter.stage("data"), pytest.raises(RuntimeError, match="load between stages"):
        meter.load_state({})
    with pytest.raises(ValueError, match="unknown stages training"):
        make().load_state({"training": {}})


def test_what_is_done_aside_is_charged_to_its_own_stage_alone(make, clock):
    meter = make()
    with meter.stage("finetuning"):
        clock.now += 10
        meter.add_flops(FlopCount({"aten.mm": 7}))
        with meter.aside("evaluation"):
            clock.now += 3
            meter.add_flops(FlopCount({"aten.mm": 5}))
        with meter.aside("evaluation", count_flops=True):
            torch.ones(2, 3) @ torch.ones(3, 4)
        clock.now += 1
        meter.add_flops(FlopCount({"aten.mm": 2}))
    costs = meter.costs()
    for stage, seconds, flops in (("finetuning", 11, 9), ("evaluation", 3, 5 + 2 * 2 * 3 * 4)):
        cost = costs[stage]
        assert (cost.seconds, cost.cpu_seconds, cost.energy_joules) == (seconds, 2 * seconds, 5 * seconds)
        assert cost.flops == flops
    assert meter.total.seconds == 14


def test_where_what_is_done_aside_fails_the_stage_goes_on(make, clock):
    meter = make()

    def fail():
        with meter.aside("evaluation"):
            clock.now += 2
            _ = 1 / 0

    with meter.stage("finetuning"):
        with pytest.raises(ZeroDivisionError):
            fail()
        with pytest.raises(ValueError, match="unknown stage 'looking'"), meter.aside("looking"):
            pass
        clock.now += 1
    assert (meter.costs()["finetuning"].seconds, meter.costs()["evaluation"].seconds) == (1, 2)
    with pytest.raises(RuntimeError, match="no stage is open"), meter.aside("evaluation"):
        pass


def test_a_cost_survives_json_so_that_it_can_be_amortised(make, clock):
    meter = make()
    spend(meter, clock, "data", 3, flops=1)
    cost = meter.costs()["data"]
    again = StageCost.from_dict(json.loads(json.dumps(cost.to_dict())))
    assert again == cost
    measured = cost_values({"data": again}, "amortised")
    assert measured.values["cost/data/amortised/seconds"] == 3
    assert measured.values["cost/total/amortised/seconds"] == 3
    with pytest.raises(ValueError, match="unknown figures of a stage: minutes"):
        StageCost.from_dict({"minutes": 1})


def test_a_run_is_active_on_the_machine_until_its_meter_stops(clock, tmp_path):
    presence = Presence(tmp_path)
    meter = Meter(EnergyMeter([FakeDomain(clock)], presence, clock=clock), CARBON, clock)
    spend(meter, clock, "data", 1)
    assert presence.count() == 1
    meter.stop()
    assert presence.count() == 0


def test_the_meter_of_this_machine_measures_all_that_it_can_and_says_how(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFNLP_LOCK_DIR", str(tmp_path))
    meter = machine_meter(country="FRA")
    with meter.stage("finetuning", count_flops=True):
        for _ in range(20):
            torch.ones(200, 200) @ torch.ones(200, 200)
    meter.stop()
    measured = meter.as_values()
    for key in ("seconds", "cpu_seconds", "flops", "energy_joules", "co2e_grams", "peak_memory_bytes"):
        assert measured.values[f"cost/finetuning/own/{key}"] > 0, key
    conditions = meter.conditions()
    assert conditions["energy/method"] in ("measured", "estimated")
    assert conditions["carbon/is_default"] is False
    assert json.dumps(conditions)
