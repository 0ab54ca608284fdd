"""Carbon: grams of CO2 equivalent from joules, by a stated carbon intensity of the electricity.

Source: Courty et al. (2024), CodeCarbon, https://doi.org/10.5281/zenodo.11171501; its packaged tables are
read offline: the energy mix of countries, and a world average (IEA, 2019).
"""

import difflib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

JOULES_PER_KILOWATT_HOUR = 3.6e6


@dataclass(frozen=True)
class CarbonIntensity:
    """How much carbon a kilowatt-hour costs, and who says so.

    Attributes:
        grams_per_kilowatt_hour: Grams of CO2 equivalent.
        source: Where the figure is from.
        is_default: Nobody chose it: the world average.
    """

    grams_per_kilowatt_hour: float
    source: str
    is_default: bool

    def grams(self, joules: float) -> float:
        """Grams of CO2 equivalent for this much energy."""
        return joules / JOULES_PER_KILOWATT_HOUR * self.grams_per_kilowatt_hour


def carbon_intensity(
    country: str | None = None, carbon_intensity_g_per_kwh: float | None = None
) -> CarbonIntensity:
    """The figure given, else that of the country, else the world average.

    Args:
        country: ISO 3166 code of three letters ("FRA").
        carbon_intensity_g_per_kwh: Grams of CO2 equivalent for a kilowatt-hour.

    Raises:
        ValueError: If both are given, the country has no entry, or the figure is negative.
    """
    if country is not None and carbon_intensity_g_per_kwh is not None:
        raise ValueError(
            f"give a country or a carbon intensity, got {country!r} and {carbon_intensity_g_per_kwh} g/kWh"
        )
    if carbon_intensity_g_per_kwh is not None:
        if carbon_intensity_g_per_kwh < 0:
            raise ValueError(
                f"carbon_intensity_g_per_kwh must not be negative, got {carbon_intensity_g_per_kwh}"
            )
        return CarbonIntensity(float(carbon_intensity_g_per_kwh), "given by the user", is_default=False)
    if country is not None:
        return _of_country(country)
    sources = _table("carbon_intensity_per_source.json")
    return CarbonIntensity(
        grams_per_kilowatt_hour=float(sources["world_average"]),
        source=f"world average, {sources['world_average_source']}",
        is_default=True,
    )


def _of_country(country: str) -> CarbonIntensity:
    mix = _table("global_energy_mix.json")
    entry = mix.get(country.upper())
    if entry is None:
        raise ValueError(f"unknown country {country!r}: {_suggest(country, mix)}")
    if entry.get("carbon_intensity") is None:
        raise ValueError(
            f"no carbon intensity is known for {entry['country_name']} ({country.upper()}): "
            "give carbon_intensity_g_per_kwh"
        )
    return CarbonIntensity(
        grams_per_kilowatt_hour=float(entry["carbon_intensity"]),
        source=f"energy mix of {entry['country_name']} in {entry['year']}, as packaged with CodeCarbon",
        is_default=False,
    )


def _suggest(country: str, mix: dict[str, Any]) -> str:
    """Codes that the user may have meant, by code and by name."""
    names = {entry["country_name"].lower(): code for code, entry in mix.items()}
    by_code = difflib.get_close_matches(country.upper(), mix, n=3)
    alike = difflib.get_close_matches(country.lower(), names, n=2)
    begin_so = [name for name in names if name.startswith(country.lower())]
    by_name = [names[name] for name in [*begin_so[:3], *alike]]
    codes = list(dict.fromkeys([*by_name, *by_code]))
    if not codes:
        return "use an ISO 3166 code of three letters, such as FRA"
    return "did you mean " + ", ".join(f"{code} ({mix[code]['country_name']})" for code in codes) + "?"


@cache
def _table(name: str) -> dict[str, Any]:
    path = resources.files("codecarbon").joinpath("data", "private_infra", name)
    return json.loads(path.read_text(encoding="utf-8"))
