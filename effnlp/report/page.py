"""The report as one page that opens offline: script, style and data are inside it."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from effnlp.report.candidates import Candidate
from effnlp.report.changed import NOTABLE
from effnlp.report.course import (
    QUANTITIES,
    Course,
    attempts_of,
    budget_rows,
    courses,
    ends_in_words,
    failure_classes,
    transfer_in_words,
)
from effnlp.report.insights import Insights, insights
from effnlp.report.page_evaluation import (
    changed_context,
    conflict_pairs,
    conflicts_context,
    expected_context,
    expected_data,
    importance_context,
    mentioned,
    reliability_data,
)
from effnlp.report.read import Loaded
from effnlp.report.summary import (
    Section,
    Summary,
    choice_counts,
    described,
    environments,
    label,
    short_names,
)
from effnlp.report.terminal import noise_in_words, spent_in_words, value_text
from effnlp.report.thin import thinned
from effnlp.report.units import UP, direction, human, meaning, unit

ALSO_IN_TABLE = (
    "test/accuracy",
    "test/pearson",
    "model/params",
    "model/bytes",
    "infer/single_stream/flops",
    "infer/single_stream/latency_seconds_p50",
    "cost/total/own/seconds",
)
"""Columns of the frontier's table beside the objectives, where records have them."""


MOST_ROWS = 500
"""Of so many runs each that failed, or were stopped, the page says why."""

TOLD_OF_A_SWEEP = (
    "name", "command", "objectives", "constraints", "reference", "budget", "trials", "seeds", "fixed", "workers",
    "early_stopping", "wall_seconds", "spent",
)  # fmt: skip
"""What the page says of a sweep, out of its ``sweep.json``."""


def render(summary: Summary, found_also: Insights | None = None) -> str:
    """The whole page. It depends on nothing but the summary and what was found beyond the frontier."""
    found = courses(summary.reading)
    also = found_also or insights(summary)
    drawn = [thinned(section, mentioned(also, number)) for number, section in enumerate(summary.sections)]
    environment = Environment(loader=FunctionLoader(_resource), autoescape=True, undefined=StrictUndefined)
    environment.filters["embedded"] = embedded
    environment.filters["breakable"] = breakable
    return environment.get_template("page.html").render(
        style=Markup(_resource("page.css")),
        script=Markup(_resource("page.js")),
        script_of_evaluation=Markup(_resource("page_evaluation.js")),
        plotly=Markup(get_plotlyjs()),
        data=[
            section_data(section)
            | {
                "pairs": conflict_pairs(also.conflicts[number]),
                "reliability": reliability_data(also, section, number),
            }
            for number, section in enumerate(drawn)
        ],
        expected=[expected_data(sweep) for sweep in also.expected],
        expected_of={str(sweep.folder): number for number, sweep in enumerate(also.expected)},
        expected_told=[expected_context(sweep) for sweep in also.expected],
        notable=NOTABLE,
        courses=[course_data(course) for course in found],
        course_of={str(course.folder): number for number, course in enumerate(found)},
        sections=[
            _section_context(section, drawn[number])
            | {
                "importance": importance_context(also.importance[number]),
                "conflicts": conflicts_context(also.conflicts[number], section),
                "has_reliability": bool(also.reliability[number]),
                "changed": [changed_context(table, drawn[number]) for table in also.changed[number]],
            }
            for number, section in enumerate(summary.sections)
        ],
        summary=summary,
        records=len(summary.reading.loaded),
        when=_when(summary),
        spent=_spent_context(summary),
        spent_in_words=spent_in_words(summary),
        failures=[_failure(run, summary) for run in summary.failures[:MOST_ROWS]],
        more_failures=len(summary.failures[MOST_ROWS:]),
        failure_classes=failure_classes(summary.failures),
        stopped=[_stopped(run) for run in summary.stopped[:MOST_ROWS]],
        more_stopped=len(summary.stopped[MOST_ROWS:]),
        damaged=[(str(folder), why) for folder, why in summary.reading.damaged.items()],
        environments=environments(summary.reading.loaded),
        sweeps=[_sweep_context(str(folder), sweep) for folder, sweep in summary.reading.sweeps.items()],
    )


def _failure(run: Loaded, summary: Summary) -> tuple[str, str, str, str, list[str]]:
    record = run.record
    attempts = attempts_of(run, summary.reading)
    return str(run.folder), record.reason or record.status, record.message or "", _overrides([run]), attempts


def _stopped(run: Loaded) -> tuple[str, str, str]:
    return str(run.folder), run.record.message or "it left no reason", _overrides([run])


def course_data(course: Course) -> dict[str, Any]:
    """What the page's script needs of the course of a sweep, one entry a trial in the order of ending."""
    return {
        "axes": {
            name: [QUANTITIES[name], [float(f"{x:.6g}") for x in xs]] for name, xs in course.spent.items()
        },
        "hypervolume": [float(f"{y:.6g}") for y in course.hypervolume],
        "names": [folder.name for folder in course.runs],
    }


def _resource(name: str) -> str:
    return files("effnlp.report").joinpath(name).read_text(encoding="utf-8")


def embedded(content: Any) -> Markup:
    """``content`` as JSON that may stand inside a script element: no ``<`` can end it."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def breakable(text: str) -> Markup:
    """``text``, escaped, to be broken between words first, then after ``/``, ``=`` and ``_``."""
    words = [re.sub(r"([/=_])", r"\1<wbr>", str(escape(word))) for word in text.split()]
    return Markup(" ".join(f'<span class="word">{word}</span>' for word in words))


def section_data(section: Section) -> dict[str, Any]:
    """What the page's script needs of a section, by column; positions are those of ``candidates``."""
    position = {candidate.config_hash: index for index, candidate in enumerate(section.candidates)}
    candidates = section.candidates
    names = short_names(section.groups)
    return {
        "keys": {
            key: {"unit": unit(key), "up": _up(key, section), "says": meaning(key)} for key in section.keys
        },
        "objectives": [key for key in section.objectives if key in section.keys],
        "frontier": [position[candidate.config_hash] for candidate in section.frontier],
        "groups": {
            group: {
                "name": names[group],
                "made": [candidate.choices.get(group, "–") for candidate in candidates],
            }
            for group in section.groups
        },
        "hashes": [candidate.config_hash for candidate in candidates],
        "labels": [label(candidate, section) for candidate in candidates],
        "folders": [[str(run.folder) for run in candidate.runs] for candidate in candidates],
        "seeds": [candidate.seeds for candidate in candidates],
        "overrides": [_overrides(candidate.runs) for candidate in candidates],
        "machines": [", ".join(_machines(candidate)) for candidate in candidates],
        "values": {key: [_mean(candidate, key) for candidate in candidates] for key in section.keys},
        "halfWidths": {key: found for key in section.keys if (found := _half_widths(candidates, key))},
        "within": {key: ends for key in section.keys if (ends := _within(candidates, key))},
        "infeasible": {position[c.config_hash]: ", ".join(violated) for c, violated in section.infeasible},
        "stopped": {
            "labels": [label(candidate, section) for candidate in section.stopped],
            "why": [candidate.runs[0].record.message or "" for candidate in section.stopped],
            "folders": [str(candidate.runs[0].folder) for candidate in section.stopped],
            "values": {
                key: column
                for key in section.keys
                if any(column := [_mean(candidate, key) for candidate in section.stopped])
            },
        },
    }


def _up(key: str, section: Section) -> bool:
    return section.objectives.get(key, direction(key)) == UP


def _mean(candidate: Candidate, key: str) -> float | None:
    found = candidate.values.get(key)
    return float(f"{found.mean:.9g}") if found else None


def _half_widths(candidates: Sequence[Candidate], key: str) -> dict[int, float]:
    return {
        index: float(f"{found.half_width:.4g}")
        for index, candidate in enumerate(candidates)
        if (found := candidate.values.get(key)) and found.half_width is not None
    }


def _within(candidates: Sequence[Candidate], key: str) -> dict[int, list[float]]:
    return {
        index: [float(f"{end:.4g}") for end in candidate.within[key]]
        for index, candidate in enumerate(candidates)
        if key in candidate.within and key in candidate.values
    }


def _machines(candidate: Candidate) -> list[str]:
    return sorted({_machine(json.dumps(run.record.identity.get("machine", ""))) for run in candidate.runs})


@cache
def _machine(text: str) -> str:
    return described(json.loads(text))


def _overrides(runs: Sequence[Loaded]) -> str:
    found = runs[0].record.identity.get("overrides") or []
    return " ".join(map(str, found)) if isinstance(found, list | tuple) else str(found)


def _section_context(section: Section, drawn: Section) -> dict[str, Any]:
    position = {candidate.config_hash: index for index, candidate in enumerate(drawn.candidates)}
    columns = [
        *section.objectives,
        *(key for key in ALSO_IN_TABLE if key in section.keys and key not in section.objectives),
    ]
    names = short_names(section.groups)
    return {
        "section": section,
        "ranked": len(section.ranked),
        "not_drawn": len(section.candidates) - len(drawn.candidates),
        "stopped_not_drawn": len(section.stopped) - len(drawn.stopped),
        "infeasible_count": len(section.infeasible),
        "lacking_count": len(section.lacking),
        "noise": noise_in_words(section),
        "infeasible": [
            (label(candidate, section), position[candidate.config_hash], violated)
            for candidate, violated in drawn.infeasible
        ],
        "columns": [(key, _up(key, section), key in section.objectives) for key in columns],
        "rows": [
            {
                "position": position[candidate.config_hash],
                "label": label(candidate, section),
                "n": len(candidate.runs),
                "cells": [
                    (value_text(candidate, key), found.mean if (found := candidate.values.get(key)) else "")
                    for key in columns
                ],
            }
            for candidate in section.frontier
        ],
        "counts": {names[group]: counts for group, counts in choice_counts(section).items()},
        "lacking": [
            (label(candidate, section), position[candidate.config_hash], missing)
            for candidate, missing in drawn.lacking
        ],
        "machines": len({name for candidate in section.candidates for name in _machines(candidate)}),
    }


def _spent_context(summary: Summary) -> dict[str, Any]:
    quantities = list(dict.fromkeys(entry.quantity for entry in summary.spent))
    cells = {(entry.stage, entry.quantity): entry for entry in summary.spent}
    stages = list(dict.fromkeys(entry.stage for entry in summary.spent))
    many = len(summary.reading.loaded)
    return {
        "quantities": quantities,
        "rows": [
            (
                stage,
                [
                    (human(quantity, entry.amount), entry.runs if entry.runs < many else None)
                    if (entry := cells.get((stage, quantity)))
                    else None
                    for quantity in quantities
                ],
            )
            for stage in stages
        ],
    }


def _sweep_context(folder: str, sweep: Mapping[str, Any]) -> dict[str, Any]:
    told = {
        key: value for key, value in sweep.items() if key in TOLD_OF_A_SWEEP and value not in (None, [], {})
    }
    if isinstance(told.get("command"), list):
        told["command"] = " ".join(["effnlp sweep", *map(shlex.quote, map(str, told["command"]))])
    rule = told.get("early_stopping")
    if isinstance(rule, Mapping):
        name = str(rule.get("_target_", "")).rpartition(".")[2]
        told["early_stopping"] = [name, {key: value for key, value in rule.items() if key[0] != "_"}]
    return {
        "folder": folder,
        "entries": [(key, _amount(key, value)) for key, value in told.items()],
        "ends": ends_in_words(sweep),
        "budget": budget_rows(sweep),
        "transfer": transfer_in_words(sweep),
    }


def _amount(key: str, value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return human(key, value) if is_number and unit(key) else described(value)


def _when(summary: Summary) -> str:
    """The days from the first record's start to the last one's end."""
    identities = [run.record.identity for run in summary.reading.loaded]
    times = [str(identity.get(key) or "") for identity in identities for key in ("started", "finished")]
    days = sorted({time[:10] for time in times if time})
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""
