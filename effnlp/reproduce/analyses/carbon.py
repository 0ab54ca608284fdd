"""The same work in other places and at other times: what do the region, the hour of the start and pauses change?

Source: Dodge et al. (2022), https://arxiv.org/abs/2206.05229
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from effnlp.carbon.schedule import Segment, at_start, best_start, duration, with_pauses
from effnlp.carbon.spent import Stage, read_spent
from effnlp.carbon.trace import HOUR, Trace, steady, synthetic_day
from effnlp.evaluation.carbon import JOULES_PER_KILOWATT_HOUR
from effnlp.evaluation.carbon_regions import Region, find_region
from effnlp.reproduce.cells import Run, Runs, Table

WINDOWS = (6, 12, 18, 24)
"""Hours by which work may begin or end later, as in the paper."""

ARRIVALS = tuple(hour * HOUR for hour in range(24))
"""When work is there to be done, seconds after midnight; shares are of the sums over all of them."""

SCALES = {"mg": 1e3, "g": 1.0, "kg": 1e-3}

PER_CENT = 100.0


@dataclass(frozen=True)
class Days:
    """Days whose hours are drawn evenly between nothing and twice a mean: no grid is like them, any may come close.

    Attributes:
        count: How many.
        seed: Of the draws.
    """

    count: int
    seed: int = 0

    def traces(self) -> list[Trace]:
        """The days, with a mean near 1 g/kWh, each over and over."""
        random = np.random.default_rng(self.seed)
        return [
            Trace(
                tuple(random.uniform(0, 2, 24).tolist()), None, HOUR, "drawn", repeats=True, is_synthetic=True
            )
            for _ in range(self.count)
        ]


def of_jobs(
    jobs: Mapping[str, Mapping[str, float]],
    regions: Sequence[str],
    shown: Sequence[str] = (),
    unit: str = "g",
    drawn_days: int = 20,
) -> Table:
    """What published jobs would emit elsewhere and at other times, their power being even.

    Args:
        jobs: Name to ``{"hours": …, "kWh": …}``.
        regions: Codes; ``effnlp carbon --regions`` lists them.
        shown: Those of them whose emissions are a column.
        unit: Of emissions: ``mg``, ``g`` or ``kg``.
        drawn_days: On how many days of drawn intensities a choice of the start is tried.

    Returns:
        A row a job, with the columns of :func:`cells`.
    """
    days = Days(drawn_days)
    return {
        name: cells(
            [Segment(0.0, job["hours"] * HOUR, job["kWh"] * JOULES_PER_KILOWATT_HOUR)],
            regions,
            shown,
            unit,
            days,
        )
        for name, job in jobs.items()
    }


def of_runs(
    runs: Mapping[str, Runs],
    regions: Sequence[str],
    shown: Sequence[str] = (),
    unit: str = "mg",
    drawn_days: int = 20,
) -> Table:
    """As :func:`of_jobs`, for the runs of each row, stage by stage; one value a seed.

    Raises:
        ValueError: If the energy of a run is not known.
    """
    days = Days(drawn_days)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row, of_row in runs.items():
        for run in of_row:
            for column, value in cells(segments(stages(run)), regions, shown, unit, days).items():
                found.setdefault(row, {}).setdefault(column, {})[run.seed] = value
    return found


def cells(
    work: Sequence[Segment],
    regions: Sequence[str],
    shown: Sequence[str] = (),
    unit: str = "g",
    days: Days | None = None,
) -> dict[str, float]:
    """Column to figure of one piece of work.

    ``g in FRA`` and the like are its emissions in the regions to be ``shown``, in ``unit``, from the schedule;
    ``energy times intensity`` is that of the dirtiest region by multiplication alone, ``dirtiest over cleanest`` a
    ratio over all regions. What a choice of time saves is in per cent of the emissions (:func:`saved`), on the
    made-up day of :func:`effnlp.carbon.trace.synthetic_day`. ``least saved`` is the smallest share that a start
    within a day saves, over all arrivals on the drawn ``days``.

    Raises:
        ValueError: For an unknown unit or region, or fewer than two regions.
    """
    if unit not in SCALES:
        raise ValueError(f"unit must be one of {', '.join(SCALES)}, got {unit!r}")
    cleanest, *_, dirtiest = by_intensity(regions)
    energy = math.fsum(segment.joules for segment in work) / JOULES_PER_KILOWATT_HOUR
    found = {f"{unit} in {code}": SCALES[unit] * grams_in(find_region(code), work) for code in shown}
    found |= {
        "energy times intensity": SCALES[unit] * energy * dirtiest.grams_per_kilowatt_hour,
        "dirtiest over cleanest": grams_in(dirtiest, work) / grams_in(cleanest, work),
        **{column: PER_CENT * share for column, share in saved(work, synthetic_day(1.0)).items()},
    }
    if days is not None:
        found["least saved"] = PER_CENT * min(least_saved(work, day) for day in days.traces())
    return found


def by_intensity(codes: Sequence[str]) -> list[Region]:
    """The regions of some codes, the cleanest first.

    Raises:
        ValueError: If a code is unknown, or there are fewer than two.
    """
    if len(set(codes)) < 2:
        raise ValueError(f"two regions at least are compared, got {list(codes)}")
    return sorted(map(find_region, codes), key=lambda region: region.grams_per_kilowatt_hour)


def grams_in(region: Region, work: Sequence[Segment]) -> float:
    """CO2 equivalent of the work at the region's mean of a year."""
    return at_start(work, steady(region.grams_per_kilowatt_hour, region.in_words), 0.0).total_grams


def saved(work: Sequence[Segment], day: Trace) -> dict[str, float]:
    """Shares of the emissions that a choice of time saves, over all hours of arrival.

    Returns:
        ``worst start over best`` (how much more the worst hour to start emits than the best), ``start 6 h`` … (the
        best start within so many hours against starting at once), ``pauses 6 h`` … (the cleanest moments of a
        window so much longer than the work), and ``pauses as long again``.
    """
    fixed = [at_start(work, day, arrival).total_grams for arrival in ARRIVALS]

    def share(chosen: Sequence[float]) -> float:
        return 1 - math.fsum(chosen) / math.fsum(fixed)

    def paused(hours: float) -> float:
        return share([with_pauses(work, day, arrival, hours).total_grams for arrival in ARRIVALS])

    return {
        "worst start over best": max(fixed) / min(fixed) - 1,
        **{
            f"start {hours} h": share(
                [best_start(work, day, arrival, hours).total_grams for arrival in ARRIVALS]
            )
            for hours in WINDOWS
        },
        **{f"pauses {hours} h": paused(hours) for hours in WINDOWS},
        "pauses as long again": paused(duration(work) / HOUR),
    }


def least_saved(work: Sequence[Segment], day: Trace, window_hours: float = 24) -> float:
    """The smallest share that the best start within a window saves, over every third hour of arrival."""
    shares = []
    for arrival in ARRIVALS[::3]:
        fixed = at_start(work, day, arrival).total_grams
        shares.append(1 - best_start(work, day, arrival, window_hours).total_grams / fixed)
    return min(shares)


def stages(run: Run) -> Sequence[Stage]:
    """What the stages of a run took.

    Raises:
        ValueError: If its energy is not known.
    """
    found = read_spent([run.folder])
    if found.without:
        raise ValueError(f"the energy of {run.folder} is not known: {next(iter(found.without.values()))}")
    return found.spent[0].stages


def segments(of: Sequence[Stage]) -> list[Segment]:
    """Stages one after the other."""
    work, offset = [], 0.0
    for stage in of:
        work.append(Segment(offset, stage.seconds, stage.joules))
        offset += stage.seconds
    return work
