"""The runs as a frame: which are shown, how many of each choice, who is on the frontier.

Functions of their arguments; nothing here reads a file or draws.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from effnlp.dashboard.index import Run
from effnlp.record import COMPLETED
from effnlp.report.summary import short_names
from effnlp.report.units import UP, unit
from effnlp.search.pareto import distinct

Place = tuple[str, str, str]
"""Task, fingerprint and evaluator: only within one place are runs compared."""

UNTOLD = ("tracking", "search", "search/space")
"""Groups that say nothing of what a run is."""


@dataclass(frozen=True)
class Shown:
    """What is asked to be seen. What is empty or None restricts nothing.

    Attributes:
        place: The only place; None for all of them.
        statuses: The statuses.
        choices: Config group to the choices in it.
        words: What each run's text must contain, in any case.
        only: Names of the only runs; None for all of them.
    """

    place: Place | None = None
    statuses: Sequence[str] = ()
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    words: str = ""
    only: Sequence[str] | None = None


@dataclass(frozen=True)
class Runs:
    """All runs of a version of the index, of copies one. Row i of every table is run i."""

    runs: Sequence[Run]
    damaged: Mapping[str, str] = field(default_factory=dict)
    version: int = 0

    @classmethod
    def of(cls, runs: Iterable[Run], damaged: Mapping[str, str], version: int) -> "Runs":
        """By name; a run that has not said where it belongs (it failed early, or runs) is placed by its neighbours."""
        unique: dict[object, Run] = {}
        for run in sorted(runs, key=lambda run: run.name):
            unique.setdefault(run.copy_of or run.name, run)
        return cls(_placed(list(unique.values())), dict(damaged), version)

    @cached_property
    def position(self) -> dict[str, int]:
        """Name to row."""
        return {run.name: row for row, run in enumerate(self.runs)}

    @cached_property
    def values(self) -> pd.DataFrame:
        """A float column for each key, NaN where a run has no such value."""
        frame = pd.DataFrame.from_records([run.values for run in self.runs], index=range(len(self.runs)))
        return frame.astype(float)[sorted(frame.columns)]

    @cached_property
    def keys(self) -> list[str]:
        """All keys that some run has a value for, sorted."""
        return list(self.values.columns)

    @cached_property
    def places(self) -> dict[Place, int]:
        """Places with their number of runs, most first."""
        return dict(Counter(run.place for run in self.runs).most_common())

    @cached_property
    def statuses(self) -> pd.Series:
        """Of each run."""
        return pd.Series([run.status for run in self.runs], dtype="category")

    @cached_property
    def _place_numbers(self) -> np.ndarray:
        number = {place: n for n, place in enumerate(self.places)}
        return np.array([number[run.place] for run in self.runs], dtype=np.int64)

    @cached_property
    def choices(self) -> dict[str, pd.Series]:
        """Config group to the choice of each run, categorical; missing where a run has no such group."""
        groups = dict.fromkeys(group for run in self.runs for group in run.choices)
        return {
            group: pd.Series([run.choices.get(group) for run in self.runs], dtype="category")
            for group in groups
        }

    @cached_property
    def texts(self) -> pd.Series:
        """What a search looks into: name, status, hash, choices and settings of each run, in lower case."""
        return pd.Series([_text(run) for run in self.runs], dtype=object)

    @cached_property
    def labels(self) -> list[str]:
        """What sets each run apart: choices that differ, other than ``none``, then settings that differ."""
        groups = self.groups(None)
        names = short_names(groups)
        keys = dict.fromkeys(key for run in self.runs for key in run.settings)
        different = [key for key in keys if len({run.settings.get(key) for run in self.runs}) > 1]
        made = []
        for run in self.runs:
            told = [
                f"{names[g]}={choice}" for g in groups if (choice := run.choices.get(g, "none")) != "none"
            ]
            told += [f"{key}={rounded(run.settings[key])}" for key in different if key in run.settings]
            made.append(" ".join(told) or run.name)
        return made

    @cached_property
    def broken_labels(self) -> list[str]:
        """The labels in lines of some fifty characters, for plotly.js; the status of a run that did not complete."""
        more = ["" if run.status == COMPLETED else f" ({run.status})" for run in self.runs]
        return [broken(text + word) for text, word in zip(self.labels, more, strict=True)]

    def in_place(self, place: Place | None) -> np.ndarray:
        """(n,) bool: who is of a place; all for None."""
        if place is None:
            return np.ones(len(self.runs), dtype=bool)
        if place not in self.places:
            return np.zeros(len(self.runs), dtype=bool)
        mask: np.ndarray = self._place_numbers == list(self.places).index(place)
        return mask

    def groups(self, place: Place | None) -> list[str]:
        """Config groups in which the runs of a place differ, in the order of the config."""
        mask = self.in_place(place)
        return [
            group
            for group, made in self.choices.items()
            if group not in UNTOLD and made[mask].nunique(dropna=True) > 1
        ]


def _placed(runs: list[Run]) -> list[Run]:
    of_texts = {run.place[:2]: run.place for run in runs if run.place[2]}
    of_parent = {run.folder.parent: run.place for run in runs if run.place[1]}

    def placed(run: Run) -> Run:
        if all(run.place):
            return run
        known = of_texts.get(run.place[:2]) if run.place[1] else of_parent.get(run.folder.parent)
        return dataclasses.replace(run, place=known) if known else run

    return [placed(run) for run in runs]


def _text(run: Run) -> str:
    told = [f"{key}={value}" for part in (run.choices, run.settings) for key, value in part.items()]
    return " ".join([run.name, run.status, run.config_hash, *told]).lower()


def shown(runs: Runs, asked: Shown, but: str | None = None) -> np.ndarray:
    """(n,) bool: the runs that are asked for.

    Args:
        but: A config group, or ``status``, whose own restriction is passed over.
    """
    mask = runs.in_place(asked.place).copy()
    if asked.statuses and but != "status":
        mask &= runs.statuses.isin(list(asked.statuses)).to_numpy()
    for group, wanted in asked.choices.items():
        if wanted and group != but and group in runs.choices:
            mask &= runs.choices[group].isin(list(wanted)).to_numpy()
    for word in asked.words.lower().split():
        rows = np.flatnonzero(mask)
        mask[rows] = [word in text for text in runs.texts.to_numpy()[rows]]
    if asked.only is not None:
        wanted_rows = [runs.position[name] for name in asked.only if name in runs.position]
        mask &= np.isin(np.arange(len(mask)), wanted_rows)
    return mask


def counts(runs: Runs, asked: Shown) -> dict[str, dict[str, int]]:
    """``status`` and each group that differs, to how many runs each choice would show, all else as asked."""
    columns = {"status": runs.statuses, **{group: runs.choices[group] for group in runs.groups(asked.place)}}
    found = {}
    for group, column in columns.items():
        present = column[runs.in_place(asked.place)].dropna().unique()
        of = column[shown(runs, asked, but=group)].value_counts()
        found[group] = {str(choice): int(of.get(choice, 0)) for choice in sorted(present)}
    return found


def frontier(x: np.ndarray, y: np.ndarray, x_way: str, y_way: str) -> np.ndarray:
    """(n,) bool: points that no other is at least as good as in both and better in one.

    As :func:`effnlp.search.pareto.on_frontier`, for two objectives and without a loop. Points with NaN are off.
    """
    mask = np.zeros(len(x), dtype=bool)
    whole = np.flatnonzero(~(np.isnan(x) | np.isnan(y)))
    if len(whole):
        signs = np.array([-1.0 if way == UP else 1.0 for way in (x_way, y_way)])
        rows, places = distinct(np.stack([x[whole], y[whole]], axis=1) * signs)
        best_before = np.concatenate([[np.inf], np.minimum.accumulate(rows[:, 1])[:-1]])
        mask[whole] = (rows[:, 1] < best_before)[places]
    return mask


@dataclass(frozen=True)
class Steps:
    """A frontier: means over the seeds of configurations, in the order of x, with the runs of each."""

    x: list[float]
    y: list[float]
    names: list[list[str]]


def frontier_of(runs: Runs, mask: np.ndarray, x_key: str, y_key: str, x_way: str, y_way: str) -> Steps:
    """The frontier of the completed runs in ``mask``, seeds pooled: a lucky seed alone reaches no frontier."""
    rows = np.flatnonzero(mask & (runs.statuses == COMPLETED).to_numpy())
    if not {x_key, y_key} <= set(runs.keys) or not len(rows):
        return Steps([], [], [])
    table = runs.values.iloc[rows][list(dict.fromkeys([x_key, y_key]))]
    kept = [runs.runs[int(row)] for row in rows]
    codes, _ = pd.factorize(np.array([run.config_hash or run.name for run in kept]))
    means = table.groupby(codes).mean()
    x, y = means[x_key].to_numpy(), means[y_key].to_numpy()
    on = np.flatnonzero(frontier(x, y, x_way, y_way))
    on = on[np.lexsort((y[on], x[on]))]
    names: dict[int, list[str]] = {int(code): [] for code in on}
    for run, code in zip(kept, codes, strict=True):
        if int(code) in names:
            names[int(code)].append(run.name)
    return Steps([float(v) for v in x[on]], [float(v) for v in y[on]], [names[int(code)] for code in on])


def broken(text: str, width: int = 56) -> str:
    """``text`` in lines of about ``width`` characters, safe inside a label of plotly.js."""
    lines, line = [], ""
    for word in text.replace("<", "&lt;").split(" "):
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "<br>".join([*lines, line])


def rounded(text: str) -> str:
    """A long number with three digits, ``0.00159758…`` as ``0.0016``; anything else as it is."""
    try:
        return f"{float(text):.3g}" if len(text) > 8 else text
    except ValueError:
        return text


def with_unit(key: str) -> str:
    """A key as the title of an axis: with its unit in brackets, if it has one."""
    symbol = unit(key)
    return f"{key} [{symbol}]" if symbol else key


def default_axes(keys: Sequence[str]) -> tuple[str | None, str | None]:
    """Cost and quality to begin with: FLOPs of one example and accuracy on validation, where there are such."""
    costs = ("infer/single_stream/flops", "model/bytes", "cost/total/own/seconds")
    qualities = ("val/accuracy", "val/pearson", "val/bits_per_byte", "val/macro_f1", "val/loss")
    x = next((key for key in costs if key in keys), keys[0] if keys else None)
    y = next((key for key in qualities if key in keys), keys[-1] if keys else None)
    return x, y
