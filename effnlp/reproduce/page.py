"""The results as one page that opens offline: script, style and data are inside it."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from effnlp.reproduce.experiment import Experiment
from effnlp.reproduce.figure import caption, panels
from effnlp.reproduce.plot import plotly
from effnlp.reproduce.result import FAILS, HOLDS, NOT_TESTABLE, UNDECIDED, Checked, Result
from effnlp.reproduce.table import UNVERIFIED, Table, header, ours_text, paper_text, tabulate
from effnlp.reproduce.words import (
    amount,
    bounds_in_words,
    counted,
    estimate_in_words,
    is_share,
    layer_in_words,
    machine_in_words,
    moment,
    pilots_once,
    rule_in_words,
    spent_in_words,
)

BADGES = {HOLDS: "holds", FAILS: "fails", UNDECIDED: "undecided", NOT_TESTABLE: "untestable"}
"""Verdict to the class of its badge."""

AROUND = {"paired_difference": 0.0, "equals": 0.0, "ratio": 1.0}
"""What a tolerance lies around, by the kind of the claim; the tolerances of other kinds bound something else."""

Found = tuple[Experiment, Result, Sequence[str]]


def render(found: Sequence[Found]) -> str:
    """The whole page: a section an experiment, in it a part a layer, in the order of ``found``."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    from effnlp.report.page import breakable, embedded

    environment = Environment(loader=FunctionLoader(_resource), autoescape=True, undefined=StrictUndefined)
    environment.filters["embedded"] = embedded
    environment.filters["breakable"] = breakable
    experiments: dict[str, dict[str, Any]] = {}
    drawn: list[dict[str, Any]] = []
    for experiment, result, drift in found:
        section = experiments.setdefault(experiment.name, {"experiment": experiment, "layers": []})
        section["layers"].append(_layer(experiment, result, drift, drawn))
    claims = [claim for _, result, _ in found for claim in result.claims]
    return environment.get_template("page.html").render(
        style=Markup(files("effnlp.report").joinpath("page.css").read_text(encoding="utf-8")),
        style_of_claims=Markup(_resource("page.css")),
        script=Markup(_resource("page.js")),
        plotly=Markup(get_plotlyjs()) if drawn else "",
        figures=drawn,
        sections=list(experiments.values()),
        counts=counted(claims),
        holes=sum(len(result.holes) for _, result, _ in found),
    )


def _resource(name: str) -> str:
    return files("effnlp.reproduce").joinpath(name).read_text(encoding="utf-8")


def _layer(
    experiment: Experiment, result: Result, drift: Sequence[str], drawn: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the page shows of a layer; its panels are added to ``drawn``, which the script draws."""
    table = tabulate(experiment, result)
    first = len(drawn)
    shown = panels(experiment, table)
    drawn += [plotly(panel) for panel in shown]
    return {
        "name": result.layer,
        "said": layer_in_words(experiment, result),
        "table": _table(table),
        "figures": [(number, _alternative(drawn[number])) for number in range(first, len(drawn))],
        "caption": caption(shown),
        "claims": [_claim(claim) for claim in pilots_once(result.claims)],
        "counts": counted(result.claims),
        "holes": len(result.holes),
        "spent": spent_in_words(result.spent),
        "command": result.command,
        "drift": drift,
        "finished": moment(result.finished),
        "provenance": {
            "machine": machine_in_words(result.machine),
            "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
            "data": ", ".join(f"{task} {text}" for task, text in result.fingerprints.items()),
        },
    }


def _alternative(panel: Mapping[str, Any]) -> str:
    names = ", ".join(trace["name"] for trace in panel["traces"])
    return f"{panel['yaxis']['title']['text']}: {names}; the table above has the figures."


def _table(table: Table) -> dict[str, Any]:
    columns = [(column, table.has_ours(column), table.has_paper(column)) for column in table.columns]
    rows = []
    for row in table.rows:
        cells: list[dict[str, Any]] = []
        for column, ours, paper in columns:
            entry = table.entry(row, column)
            if ours:
                is_hole = entry.hole is not None
                cells.append(
                    _cell(ours_text(entry, column, table.n), entry.ours_marks, "hole" if is_hole else "")
                )
            if paper:
                remark = UNVERIFIED if entry.paper and not entry.paper.is_verified else ""
                cells.append(_cell(paper_text(entry), entry.paper_marks, "paper", remark))
        rows.append((row, cells))
    return {
        "heads": [(header(column), ours + paper) for column, ours, paper in columns],
        "sides": [side for _, ours, paper in columns for side in ["ours"] * ours + ["paper"] * paper],
        "rows": rows,
        "remarks": table.remarks,
        "footnotes": table.footnotes,
    }


def _cell(text: str, marks: Sequence[int], kind: str, remark: str = "") -> dict[str, Any]:
    return {"text": text, "marks": ", ".join(map(str, marks)), "kind": kind, "remark": remark}


def _claim(claim: Checked) -> dict[str, Any]:
    return {
        "name": claim.name,
        "says": claim.says,
        "verdict": claim.finding.verdict,
        "badge": BADGES.get(claim.finding.verdict, "undecided"),
        "found": estimate_in_words(claim),
        "rule": rule_in_words(claim),
        "why": claim.finding.why,
        "frozen": claim.frozen,
        "pilot": claim.pilot,
        "gauge": gauge(claim),
        "bounds": bounds_in_words(claim.arguments),
    }


def bounds(kind: str, arguments: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Between what the estimate of a claim must lie; None for a side that is open.

    What is ``within`` lies around 0, for a ratio around 1: the estimates of the other kinds are differences.
    """
    low, high = _number(arguments.get("at_least")), _number(arguments.get("at_most"))
    for key in ("within", "within_relative"):
        width = _number(arguments.get(key))
        if width is not None and kind in AROUND:
            return AROUND[kind] - width, AROUND[kind] + width
    return low, high


def gauge(checked: Checked) -> dict[str, Any] | None:
    """Where interval, estimate and bounds lie on a line from 0 to 100; None where there is nothing to draw.

    ``inside`` is the part of the line that the bounds allow.
    """
    finding = checked.finding
    low, high = bounds(checked.kind, checked.arguments)
    if finding.estimate is None or (low is None and high is None):
        return None
    first = finding.estimate if finding.low is None else finding.low
    last = finding.estimate if finding.high is None else finding.high
    places = [first, last, finding.estimate, *(bound for bound in (low, high) if bound is not None)]
    reach = (max(places) - min(places)) or abs(finding.estimate) or 1.0
    start, whole = min(places) - 0.15 * reach, 1.3 * reach

    def at(value: float) -> float:
        return round(100 * (value - start) / whole, 2)

    inside = (0.0 if low is None else at(low), 100.0 if high is None else at(high))
    return {
        "from": at(first),
        "to": at(last),
        "at": at(finding.estimate),
        "inside": inside,
        "bounds": [
            (at(bound), amount(bound, is_share(checked))) for bound in (low, high) if bound is not None
        ],
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
