"""What ``effnlp pick`` says: what was picked and why, or what came nearest, and the page beside the model.

Everything here is a function of what it is told; nothing reads a file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from effnlp.record import HEADLINES
from effnlp.report.candidates import Candidate
from effnlp.report.choose import Choice, Limit, in_words
from effnlp.report.summary import Section, label
from effnlp.report.units import human

SHOWN = 3
"""How many rivals or misses are named."""


def found(section: Section, choice: Choice, limits: Sequence[Limit], best: str) -> list[str]:
    """What was picked, in lines."""
    picked = choice.fitting[0]
    lines = [f"Picked: {label(picked, section)}  ({picked.config_hash}, {_runs(picked)})"]
    width = max(len(key) for key in [best, *(limit.key for limit in limits)])
    bounds: dict[str, list[str]] = {best: [], **{limit.key: [] for limit in limits}}
    for limit in limits:
        unsure = "" if limit.is_sure(picked.values[limit.key]) else "; its interval reaches beyond"
        bounds[limit.key].append(f"{limit}{unsure}")
    for key in bounds:
        value = picked.values[key]
        said = f"  ({', '.join(bounds[key])})" if bounds[key] else ""
        lines.append(f"  {key:<{width}}  {human(key, value.mean, value.half_width)}{said}")
    within = "within the limits" if limits else "to choose from"
    lines.append(f"{len(choice.fitting)} of {len(section.candidates)} configurations are {within}")
    lines += _passed_over(choice)
    if choice.rivals:
        lines.append(
            f"{len(choice.rivals)} of them cannot be told from it in {best}, their 90 % intervals overlap: "
            + "; ".join(label(rival, section) for rival in choice.rivals[:SHOWN])
        )
    elif len(choice.fitting) > 1 and all(c.values[best].half_width is None for c in choice.fitting[:2]):
        lines.append("Each was run once: whether the best two differ by more than noise is not known")
    return lines


def _runs(candidate: Candidate) -> str:
    return f"{len(candidate.runs)} run{'s' * (len(candidate.runs) > 1)}"


def _passed_over(choice: Choice) -> list[str]:
    return [
        f"{count} passed over without {key}: {why}"
        for (key, why), count in sorted(choice.passed_over.items())
    ]


def nothing_fits(section: Section, choice: Choice, limits: Sequence[Limit], best: str) -> list[str]:
    """What comes nearest, in lines."""
    lines = [f"Nothing fits: none of {len(section.candidates)} configurations is within the limits."]
    lines += _passed_over(choice)
    if choice.misses:
        lines.append("Nearest:")
    for candidate in choice.misses[:SHOWN]:
        value = candidate.values[best]
        lines.append(f"  {label(candidate, section)}  {best} {human(best, value.mean, value.half_width)}")
        lines += [f"    {words}" for words in in_words(candidate, limits)]
    for limit in limits if choice.misses else ():
        means = [candidate.values[limit.key].mean for candidate in choice.misses]
        reached = min(means) if limit.is_upper else max(means)
        if limit.excess(reached):
            way = "below" if limit.is_upper else "above"
            lines.append(f"No configuration comes {way} {human(limit.key, reached)} in {limit.key}")
    return lines


def page(content: dict[str, Any]) -> str:
    """``README.md`` of the folder: what it is, how good, how to use it."""
    values = content["record"]["values"]
    shown = [key for key in values if key.startswith(("val/", "test/", "infer/", "model/"))]
    rows = "\n".join(f"| `{key}` | {human(key, values[key])} |" for key in shown)
    choices = " ".join(
        f"{group}={choice}" for group, choice in content["choices"].items() if choice != "none"
    )
    pair = " Each line holds both texts with a tab between them." if content["is_pair"] else ""
    labels = ", ".join(map(str, content["labels"]))
    if "val/bits_per_byte" in values:
        answers = "It predicts next tokens and says what a text costs, so that `effnlp predict` has nothing to answer."
    else:
        answers = f"Labels: {labels}" if labels else "Its answer is a number."
    return f"""# A model for the task {content["task"]}

{answers}

    effnlp predict THIS_FOLDER < texts.txt

reads a text a line and writes {"a label" if labels else "a number"} a line.{pair} The folder can be moved anywhere.
It holds code by reference: use it only where you trust who made it.

Chosen: {choices}

From `{content["from"]}` ({content["how"]}; config {content["config_hash"]}, seeds {content["seeds"]}), made
{content["made"]} by effnlp {content["effnlp"]}. `model.json` says what was asked for and holds the means over
replicates and the whole record. The figures were measured with torch, also where the file is ONNX.

| figure of this model | |
| --- | --- |
{rows}
"""


def written(how: str, values: Mapping[str, float], into: str) -> list[str]:
    """Where the model is and how it does itself, in lines."""
    lines = [f"Its model was {how}:"]
    lines += [
        f"  {key}  {human(key, values[key])}"
        for quality in HEADLINES
        for key in (quality, quality.replace("val/", "test/"))
        if key in values
    ]
    return [*lines, f"Written: effnlp predict {into} < texts.txt"]
