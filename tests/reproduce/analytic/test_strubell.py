"""Energy arithmetic: units, proportions, and the figures that the rest of the package gets another way."""

import pytest

from effnlp.reproduce.analytic import strubell


def test_a_kilowatt_for_an_hour_is_a_kilowatt_hour_and_the_overhead():
    assert strubell.kilowatt_hours(1000, 1, usage_effectiveness=1.0) == 1
    assert strubell.kilowatt_hours(1000, 1) == 1.58


def test_energy_is_the_sum_over_its_hours():
    by_the_hour = sum(strubell.kilowatt_hours(517.66, 1) for _ in range(336))
    assert strubell.kilowatt_hours(517.66, 336) == pytest.approx(by_the_hour)


def test_twice_the_devices_for_half_of_the_time_cost_the_same():
    assert strubell.cloud_dollars(8, 12, 1.46) == strubell.cloud_dollars(16, 6, 1.46)


def test_a_training_without_measured_power_has_a_price_and_no_emissions():
    cells = strubell.table({"tpu": {"devices": 16, "hours": 96, "lowest_rate": 1.35, "highest_rate": 4.5}})
    assert set(cells["tpu"]) == {"lowest price", "highest price"}


def test_emissions_of_a_row_are_those_of_its_energy():
    row = {"devices": 1, "hours": 10, "lowest_rate": 1, "highest_rate": 2, "power_watts": 250}
    cells = strubell.table({"row": row})["row"]
    assert cells["energy"] == pytest.approx(250 * 10 * 3600 / 3.6e6 * 1.58)  # by way of joules
    assert cells["CO2e"] == pytest.approx(0.954 * cells["energy"])
    assert cells["highest price"] == 2 * cells["lowest price"]
