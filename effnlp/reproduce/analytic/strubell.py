"""From power and hours to energy, emissions and the price of a cloud.

Source: Strubell et al. (2019), https://arxiv.org/abs/1906.02243, section 2
"""

from collections.abc import Mapping

POWER_USAGE_EFFECTIVENESS = 1.58
"""Energy of a data centre for each unit that its machines draw, the average of 2018."""

POUNDS_PER_KILOWATT_HOUR = 0.954
"""Of CO2e, the average of the United States."""

WATTS_PER_KILOWATT = 1000


def kilowatt_hours(
    power_watts: float, hours: float, usage_effectiveness: float = POWER_USAGE_EFFECTIVENESS
) -> float:
    """PUE · hours · watts / 1000 (eq. 1, where the watts are those of processors, memory and all accelerators)."""
    return usage_effectiveness * hours * power_watts / WATTS_PER_KILOWATT


def emitted_pounds(energy_kilowatt_hours: float, pounds: float = POUNDS_PER_KILOWATT_HOUR) -> float:
    """Pounds of CO2e (eq. 2)."""
    return pounds * energy_kilowatt_hours


def cloud_dollars(devices: int, hours: float, dollars_per_device_hour: float) -> float:
    """The price of renting the accelerators alone."""
    return devices * hours * dollars_per_device_hour


def table(trainings: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Table 3.

    Args:
        trainings: Row to ``devices``, ``hours``, ``lowest_rate`` and ``highest_rate`` in dollars for an hour of a
            device, and, where it was measured, ``power_watts``.
    """
    cells = {}
    for row, of in trainings.items():
        cells[row] = {
            "lowest price": cloud_dollars(int(of["devices"]), of["hours"], of["lowest_rate"]),
            "highest price": cloud_dollars(int(of["devices"]), of["hours"], of["highest_rate"]),
        }
        if "power_watts" in of:
            energy = kilowatt_hours(of["power_watts"], of["hours"])
            cells[row] |= {"energy": energy, "CO2e": emitted_pounds(energy)}
    return cells
