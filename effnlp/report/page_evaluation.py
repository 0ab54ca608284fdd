"""What the page shows of :class:`effnlp.report.insights.Insights`: for its tables, and for its script."""

import math
from typing import Any

from effnlp.report.candidates import Candidate
from effnlp.report.changed import NOTABLE, Changed, ChangedTable
from effnlp.report.conflicts import AGREE, Conflicts, in_words, least_agreeing
from effnlp.report.expected import Expected, ExpectedSweep
from effnlp.report.expected import in_words as leads_in_words
from effnlp.report.importance import Effect, Importance, Moved, effect_in_words
from effnlp.report.insights import Insights
from effnlp.report.summary import Section, label
from effnlp.report.units import UP, unit

PAIRS = 6
"""So many pairs of costs are drawn, those that agree least."""

BUDGETS = {"hours": "hours of trials", "kilowatt_hours": "kWh", "flops": "FLOPs"}
PLACES = {
    "rarest_class": "rarest class",
    "least_sure_quartile": "quarter the reference was least sure of",
    "reference_right": "where the reference is right",
    "reference_wrong": "where it is wrong",
}


def mentioned(insights: Insights, number: int) -> list[Candidate]:
    """Candidates of a section that a table or sentence names, so that they have to be among those drawn."""
    found = insights.conflicts[number]
    inverted = [c for one in (found.inversions if found else ()) for c in (one.cheap, one.dear)]
    return [*inverted, *(row.candidate for table in insights.changed[number] for row in table.rows)]


def conflicts_context(found: Conflicts | None, section: Section) -> dict[str, Any] | None:
    """The heat map as rows of its lower triangle, and the inversions as sentences."""
    if found is None:
        return None
    pairs = least_agreeing(found, len(found.axes) ** 2)
    return {
        "rows": [
            (
                number + 1,
                key,
                [
                    (_number(found.tau[number, other]), int(found.shared[number, other]), found.axes[other])
                    for other in range(number)
                ],
            )
            for number, key in enumerate(found.axes)
        ],
        "sentences": [in_words(inversion, section) for inversion in found.inversions],
        "disagree": sum(tau < AGREE for *_, tau in pairs),
        "pairs": len(pairs),
        "agree": AGREE,
        "left_out": found.left_out,
        "looked_at": found.looked_at if found.looked_at < len(section.candidates) - found.left_out else None,
    }


def importance_context(found: Importance | None) -> dict[str, Any] | None:
    """Shares as rows of slots with a cell for each objective, and for each of their factors what its levels did."""
    if found is None:
        return None
    strongest = {slot: max(moved.shares[slot].share for moved in found.moved) for slot in found.slots}
    slots = sorted(found.slots, key=lambda slot: -strongest[slot])
    return {
        "objectives": [(moved.objective, moved.explained) for moved in found.moved],
        "shares": [
            (
                slot,
                [(max(0.0, moved.shares[slot].share), slot in moved.movers) for moved in found.moved],
            )
            for slot in slots
        ],
        "effects": [
            row for slot in slots for factor in found.slots[slot] for row in _effect_rows(found.moved, factor)
        ],
        "configurations": found.configurations,
    }


def _effect_rows(moved: list[Moved], factor: str) -> list[tuple[str, str, str, int, list[tuple[str, bool]]]]:
    """Factor, level, reference, its number, and a cell for each objective: in words, and whether it is clear."""
    by_level: dict[str, dict[str, Effect]] = {}
    for one in moved:
        for effect in one.effects:
            if effect.level.factor == factor:
                by_level.setdefault(effect.level.level, {})[one.objective] = effect
    rows = []
    for name, effects in by_level.items():
        level = next(iter(effects.values())).level
        cells = [
            (effect_in_words(effects[one.objective], one.objective), effects[one.objective].clear)
            if one.objective in effects
            else ("–", False)
            for one in moved
        ]
        rows.append((factor, name, level.reference, level.n, cells))
    return rows


def conflict_pairs(found: Conflicts | None) -> list[list[Any]]:
    """The pairs of costs to draw, those that disagree: two keys and their correlation."""
    if found is None:
        return []
    return [[one, other, round(tau, 3)] for one, other, tau in least_agreeing(found, PAIRS) if tau < AGREE]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 2)


def reliability_data(insights: Insights, section: Section, number: int) -> list[dict[str, Any]]:
    """One line a configuration: its name, and its bins as columns."""
    return [
        {
            "label": label(candidate, section),
            "confidence": [round(one.confidence, 4) for one in bins],
            "accuracy": [round(one.accuracy, 4) for one in bins],
            "count": [one.count for one in bins],
        }
        for candidate, bins in insights.reliability[number]
    ]


def changed_context(table: ChangedTable, section: Section) -> dict[str, Any]:
    """A table of changed answers: names of its columns, and rows of text with the share behind it."""
    by_hash = {candidate.config_hash: candidate for candidate in section.candidates}
    position = {candidate.config_hash: index for index, candidate in enumerate(section.candidates)}
    references = list(dict.fromkeys(row.reference for row in table.rows))
    return {
        "split": table.split,
        "references": [
            label(by_hash[name], section) if name in by_hash else f"config {name}" for name in references
        ],
        "places": [PLACES.get(place, place.removeprefix("class/")) for place in table.places],
        "classes": sum(place.startswith("class/") for place in table.places),
        "more_classes": table.more_classes,
        "more_rows": table.more_rows,
        "rows": [
            {
                "label": label(row.candidate, section),
                "position": position[row.candidate.config_hash],
                "overall": row.values["changed"],
                "loyalty": row.values.get("probability_loyalty"),
                "cells": [_cell(row, place) for place in table.places],
            }
            for row in table.rows
        ],
    }


def _cell(row: Changed, place: str) -> tuple[float | None, bool]:
    """Share of changed answers there, and whether it is notably more than overall."""
    share = row.values.get(f"changed/{place}")
    return share, share is not None and share > 0 and share >= NOTABLE * row.values["changed"]


def expected_data(sweep: ExpectedSweep) -> dict[str, Any]:
    """What the page's script draws of a sweep: for each group its choices' curves."""
    return {
        "objective": sweep.objective,
        "unit": unit(sweep.objective),
        "up": sweep.towards == UP,
        "budgets": BUDGETS,
        "groups": {
            group: {choice: _curve(made) for choice, made in curves.items()}
            for group, curves in sweep.groups.items()
        },
    }


def _curve(made: Expected) -> dict[str, Any]:
    columns = {"n": made.counts, "mean": made.mean, "low": made.low, "high": made.high}
    return {name: [float(f"{x:.5g}") for x in column.tolist()] for name, column in columns.items()} | {
        "trials": made.trials, "stopped": made.stopped, "failed": made.failed,
        "perTrial": {budget: float(f"{amount:.5g}") for budget, amount in made.per_trial.items()},
    }  # fmt: skip


def expected_context(sweep: ExpectedSweep) -> dict[str, Any]:
    """What is said of a sweep's curves."""
    made = [curve for curves in sweep.groups.values() for curve in curves.values()]
    return {
        "sentences": leads_in_words(sweep),
        "stopped": any(curve.stopped for curve in made),
        "failed": any(curve.failed for curve in made),
        "is_random": sweep.is_random,
    }
