"""What a result says in sentences: claims and their bounds, and what the reproduction took."""

import datetime
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from effnlp.report.units import human
from effnlp.reproduce.experiment import Experiment
from effnlp.reproduce.result import VERDICTS, Checked, Result, Spent
from effnlp.statistics import LEVEL

LEVEL_IN_WORDS = f"{100 * LEVEL:g} %"

BOUNDS = {
    "at_least": "at least {}",
    "at_most": "at most {}",
    "within": "within ± {}",
    "within_relative": "within ± {}",
}
"""How a bound is said; those that a kind has of its own are said by their names."""

PLACES = ("of", "to", "except")
"""Arguments that say which cells a claim is about, not when it holds."""


CHANGED = "These figures are of an earlier design of this layer."


def layer_in_words(experiment: Experiment, result: Result) -> str:
    """What the layer of a result says of itself: as it was when the result was made, if that was kept."""
    layer = experiment.layers.get(result.layer)
    return result.said if result.design or layer is None else layer.said


def is_of_an_earlier_design(experiment: Experiment, result: Result) -> bool:
    """Whether the layer makes other cells now; False where its design was not kept."""
    layer = experiment.layers.get(result.layer)
    return bool(result.design) and layer is not None and result.design != layer.design


def figure(value: float) -> str:
    """Four significant digits, as in ``1.068``, ``0.0003`` or ``1.2e+09``."""
    return f"{value:.4g}".replace("e+0", "e+").replace("e-0", "e-")


def is_share(checked: Checked) -> bool:
    """Whether the estimate of a claim is a relative difference, which is said in percent as its bounds are."""
    return checked.kind == "equals" and "within_relative" in checked.arguments


def amount(value: float, as_share: bool) -> str:
    """An estimate, an end of its interval or a bound."""
    return f"{figure(100 * value)} %" if as_share else figure(value)


def estimate_in_words(checked: Checked) -> str:
    """``1.02 (90 % interval 0.98 to 1.06, 3 seeds)``; empty where nothing was computed."""
    finding = checked.finding
    if finding.estimate is None:
        return ""
    text = amount(finding.estimate, is_share(checked))
    seeds = f"{finding.n} seeds" if finding.n != 1 else "1 seed"
    ends = [amount(end, is_share(checked)) for end in (finding.low, finding.high) if end is not None]
    if len(ends) == 2 and finding.low != finding.high:
        return f"{text} ({LEVEL_IN_WORDS} interval {ends[0]} to {ends[1]}{', ' + seeds if finding.n else ''})"
    return f"{text} ({seeds})" if finding.n else f"{text} (exact)" if ends else text


def bounds_in_words(arguments: Mapping[str, Any]) -> str:
    """``at least 0.97``; the arguments that bound what was found, in the order of the file."""
    said = []
    for key, value in arguments.items():
        if key in PLACES:
            continue
        shown = f"{100 * value:.4g} %" if key == "within_relative" and _is_number(value) else _said(value)
        said.append(BOUNDS[key].format(shown) if key in BOUNDS else f"{key.replace('_', ' ')} {shown}")
    return ", ".join(said)


def rule_in_words(checked: Checked) -> str:
    """``ratio: SST-2 of LoRA to SST-2 of full, at least 0.97``; empty for a claim that has no rule."""
    if not checked.kind:
        return ""
    of, to, left_out = (checked.arguments.get(key) for key in PLACES)
    said = [cells_in_words(of)] if of else []
    if to is not None:
        inherited = of if isinstance(of, Mapping) and isinstance(to, Mapping) else {}
        said.append(
            "to " + (cells_in_words({**inherited, **to}) if isinstance(to, Mapping) else _held_against(to))
        )
    if left_out:
        said.append(f"except {_said(left_out)}")
    parts = [" ".join(said), bounds_in_words(checked.arguments)]
    return f"{checked.kind.replace('_', ' ')}: {', '.join(part for part in parts if part)}"


def cells_in_words(reference: Any) -> str:
    """``SST-2 of LoRA``; a place that is left out means every row or column."""
    if not isinstance(reference, Mapping):
        return _said(reference)
    column = _said(reference["column"]) if "column" in reference else "every column"
    return f"{column} of {_said(reference['row']) if 'row' in reference else 'every row'}"


def _held_against(to: Any) -> str:
    return "the published figure" if to == "published" else _said(to)


def _said(value: Any) -> str:
    if _is_number(value):
        return figure(value)
    if isinstance(value, Mapping):
        if value.keys() <= {"row", "column"}:
            return cells_in_words(value)
        return ", ".join(f"{key} {_said(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    return value if isinstance(value, str) else json.dumps(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def pilots_once(claims: Sequence[Checked]) -> Iterator[Checked]:
    """The claims for a reader of all of them: a pilot that the claim before had, too, is not said again."""
    before = None
    for claim in claims:
        is_same = claim.pilot is not None and claim.pilot == before
        before = claim.pilot
        yield replace(claim, pilot="as above") if is_same else claim


def set_in_words(checked: Checked) -> str:
    """When and by what the bounds were set; empty for claims about counts."""
    said = [f"bounds frozen on {checked.frozen}"] if checked.frozen else []
    return "; ".join([*said, *([f"pilot: {checked.pilot}"] if checked.pilot else [])])


def counted(claims: Sequence[Checked]) -> str:
    """``3 hold, 1 fails, 1 undecided``; ``no claims`` for none."""
    counts = Counter(claim.finding.verdict for claim in claims)
    return counts_in_words(counts)


def counts_in_words(counts: Mapping[str, int]) -> str:
    """As :func:`counted`, from the number of claims with each verdict."""
    plural = {"holds": "hold", "fails": "fail"}
    parts = [
        f"{counts[verdict]} {verdict if counts[verdict] == 1 else plural.get(verdict, verdict)}"
        for verdict in VERDICTS
        if counts.get(verdict)
    ]
    return ", ".join(parts) or "no claims"


def spent_in_words(spent: Spent) -> str:
    """``6 runs, of which 4 were there: 12.3 min, 4.10 kJ (measured), 0.5 g CO2e``."""
    total = spent.runs + spent.reused
    if not total:
        return f"{human('seconds', spent.seconds)}, without any run"
    runs = f"{total} run{'s' if total != 1 else ''}"
    if spent.reused:
        runs += (
            ", all of them there already" if not spent.runs else f", of which {spent.reused} there already"
        )
    parts = [f"{human('seconds', spent.run_seconds)} of runs"]
    if spent.energy_joules is not None:
        method = f" ({spent.energy_method})" if spent.energy_method else ""
        parts.append(human("joules", spent.energy_joules) + method)
    if spent.co2e_grams is not None:
        parts.append(f"{human('grams', spent.co2e_grams)} CO2e")
    return f"{runs}: {', '.join(parts)}; this command took {human('seconds', spent.seconds)}"


def machine_in_words(machine: Mapping[str, Any]) -> str:
    """Processor, cores, memory, GPUs."""
    from effnlp.report.summary import described as told

    return told(machine)


def moment(text: str) -> str:
    """A time of ISO 8601 to the minute, ``2026-11-22 10:00 UTC``; anything else as it is."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = " UTC" if when.utcoffset() == datetime.timedelta(0) else ""
    return f"{when:%Y-%m-%d %H:%M}{zone}"
