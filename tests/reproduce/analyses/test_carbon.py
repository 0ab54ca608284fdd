"""The same work in other places and at other times: figures of before, and what is true on every day."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from effnlp.carbon.schedule import Segment
from effnlp.carbon.trace import synthetic_day
from effnlp.evaluation.carbon import JOULES_PER_KILOWATT_HOUR
from effnlp.record import COMPLETED, Record
from effnlp.reproduce.analyses.carbon import (
    Days,
    by_intensity,
    cells,
    least_saved,
    of_jobs,
    of_runs,
    saved,
)
from effnlp.reproduce.cells import Run
from effnlp.reproduce.read import find

HERE = Path(__file__).parent
RUNS = HERE / "carbon_runs.csv"
"""Seconds and joules of the stages of nine runs, of before there were experiment files."""
BY_REGION, BY_START = HERE / "carbon_by_region.csv", HERE / "carbon_by_start.csv"
"""What came out then for them and for the published jobs."""


@pytest.fixture(scope="module")
def arguments():
    """Of the function that the experiment's analytic layer calls."""
    return yaml.safe_load(find("carbon_regions").read_text())["layers"]["analytic"]["computed"][0][
        "arguments"
    ]


@pytest.fixture(scope="module")
def published(arguments):
    return of_jobs(**{**arguments, "drawn_days": 1})


@pytest.fixture(scope="module")
def ours(arguments, tmp_path_factory):
    """The nine runs of before, with records that say what their stages took."""
    runs: dict[str, list[Run]] = {}
    for (model, seed), stages in pd.read_csv(RUNS).groupby(["model", "seed_init"]):
        values = {"cost/total/own/seconds": stages["seconds"].sum()}
        values["cost/total/own/energy_joules"] = stages["energy_joules"].sum()
        for stage in stages.itertuples():
            values[f"cost/{stage.stage}/own/seconds"] = stage.seconds
            values[f"cost/{stage.stage}/own/energy_joules"] = stage.energy_joules
        record = Record(
            COMPLETED, {"seed_init": int(seed)}, values=values, notes={"energy/method": "estimated"}
        )
        folder = tmp_path_factory.mktemp(f"{model}-{seed}")
        record.save(folder)
        runs.setdefault(model, []).append(Run(model, str(seed), record, folder))
    return of_runs(runs, arguments["regions"], arguments["shown"], "mg", drawn_days=1)


def of_starts(name: str) -> str:
    """A column of the table of before by its name of today."""
    return name.removeprefix("flexible ")


def test_published_jobs_emit_what_they_did_before_in_the_regions_that_are_shown(published, arguments):
    before = pd.read_csv(BY_REGION).set_index("region")
    assert len(published) == 11
    assert len(arguments["shown"]) == 6
    for job, found in published.items():
        for region in arguments["shown"]:
            assert found[f"g in {region}"] == pytest.approx(before.loc[region, job], rel=1e-4)


def test_choices_of_time_save_published_jobs_what_they_did_before(published):
    before = pd.read_csv(BY_START).set_index("job").drop(columns=["hours", "kilowatt_hours"])
    for job, found in published.items():
        for column, share in before.loc[job].items():
            assert found[of_starts(column)] == pytest.approx(100 * share, rel=1e-3, abs=1e-6)


def test_our_runs_have_the_figures_of_before_in_the_mean_of_their_seeds(ours):
    emitted = pd.read_csv(BY_REGION)
    starts = pd.read_csv(BY_START).set_index("job")
    assert len(ours) == 3
    for model, found in ours.items():
        job = f"{model}, ours"
        assert all(list(values) == ["0", "1", "2"] for values in found.values())
        assert np.mean(list(found["mg in NO1"].values())) == pytest.approx(
            1000 * emitted[job].iloc[0], rel=1e-4
        )
        for column in ("start 24 h", "pauses 24 h", "worst start over best"):
            before = starts.loc[job].rename(of_starts)[column]
            assert np.mean(list(found[column].values())) == pytest.approx(100 * before, rel=1e-3)


def test_the_regions_come_cleanest_first_with_the_intensities_of_before(arguments):
    found, before = by_intensity(arguments["regions"]), pd.read_csv(BY_REGION)
    assert [region.code for region in found] == before["region"].tolist()
    figures = [region.grams_per_kilowatt_hour for region in found]
    assert figures == pytest.approx(before["grams_per_kilowatt_hour"].tolist(), rel=1e-4)


@pytest.mark.parametrize("hours", [0.3, 7.5, 40.0])
def test_emissions_are_energy_times_intensity_however_the_work_is_cut(hours):
    one = [Segment(0.0, hours * 3600, 5e6)]
    cut = [Segment(0.0, hours * 1800, 1e6), Segment(hours * 1800, hours * 1800, 4e6)]
    for work in (one, cut):
        found = cells(work, ["FRA", "POL"], ["FRA", "POL"])
        assert found["g in POL"] == pytest.approx(found["energy times intensity"], rel=1e-12)
    whole, halves = (cells(work, ["FRA", "POL"], ["FRA"])["g in FRA"] for work in (one, cut))
    assert whole == pytest.approx(halves, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("hours", [0.5, 5.0, 30.0])
def test_on_every_day_a_wider_window_saves_more_and_pauses_save_more_than_a_start(seed, hours):
    work = [Segment(0.0, hours * 3600, 3 * JOULES_PER_KILOWATT_HOUR)]
    (day,) = Days(1, seed).traces()
    found = saved(work, day)
    for kind in ("start", "pauses"):
        shares = [0.0, *(found[f"{kind} {window} h"] for window in (6, 12, 18, 24))]
        assert all(wide >= narrow - 1e-9 for narrow, wide in itertools.pairwise(shares))
        assert shares[-1] > 0.01, "the day must give something to choose from"
    assert all(found[f"pauses {window} h"] >= found[f"start {window} h"] - 1e-9 for window in (6, 12, 18, 24))
    assert least_saved(work, day) >= -1e-9


def test_a_start_saves_nothing_where_all_hours_are_alike():
    work = [Segment(0.0, 48 * 3600, 1e6)]
    assert saved(work, synthetic_day(1.0))["start 24 h"] == pytest.approx(0, abs=1e-9)


def test_drawn_days_differ_by_seed_and_repeat_by_it():
    one, again, other = (Days(2, seed).traces() for seed in (0, 0, 1))
    assert [day.average for day in one] == [day.average for day in again]
    assert one[0].average != one[1].average != other[0].average
    assert all(day.is_synthetic for day in one)


def test_a_run_without_energy_is_refused(tmp_path):
    record = Record(COMPLETED, {}, absent={"cost/total/own/energy_joules": "no meter"})
    record.save(tmp_path)
    with pytest.raises(ValueError, match=r"the energy of .* is not known: no meter"):
        of_runs({"model": [Run("model", "0", record, tmp_path)]}, ["FRA", "POL"])


@pytest.mark.parametrize(
    ("regions", "unit", "said"),
    [(["FRA"], "g", "two regions at least"), (["FRA", "POL"], "t", "unit must be one of mg, g, kg, got 't'")],
)
def test_what_cannot_be_compared_is_refused(regions, unit, said):
    with pytest.raises(ValueError, match=said):
        cells([Segment(0.0, 1.0, 1.0)], regions, unit=unit)
