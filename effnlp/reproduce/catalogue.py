"""All experiments and what is known of them, as one Markdown document: ``docs/experiments.md``.

It follows from the files of the experiments and from the committed results alone.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from effnlp.record import write_atomically
from effnlp.reproduce.experiment import Claim, Experiment, Layer
from effnlp.reproduce.markdown import escaped, markdown_claims, markdown_table
from effnlp.reproduce.result import FAILS, HOLDS, NOT_TESTABLE, UNDECIDED, Checked, Finding, Result
from effnlp.reproduce.store import committed_path
from effnlp.reproduce.table import tabulate
from effnlp.reproduce.words import counts_in_words, layer_in_words, machine_in_words, moment, spent_in_words

RESULTS = "results"
"""The folder of committed results, beside the chapters."""

DOCUMENT = Path("docs") / "experiments.md"
COMMAND = "effnlp reproduce --docs"
NOT_RUN = "not run"

Results = Mapping[tuple[str, str], Result]
"""Name of the experiment and of the layer to its result."""

INTRODUCTION = f"""\
# Experiments

Each experiment is a file below `experiments/`: figures that a paper printed, one or more ways to make such figures
here, and claims that are checked by rules. Three layers make figures: `analytic` counts and computes in seconds,
`small` is a version for two processor cores, `full` is the paper's setting.

A claim **{HOLDS}** if the 90 % interval of what was found lies wholly inside its bounds, **{FAILS}** if it lies wholly
outside, and is **{UNDECIDED}** if it straddles one. **{NOT_TESTABLE.capitalize()}** are claims that need what is
missing here; the reason stands beside them. Bounds were set before the runs that they judge, on the date given, and
are not moved. A figure that was not seen where it was published is marked as unverified.

This page is generated: `{COMMAND}` makes it from the files and from the results that are committed below
`experiments/{RESULTS}/`.
"""


def published(folder: Path) -> dict[tuple[str, str], Result]:
    """The results that are committed in a folder; none if there is no such folder.

    Raises:
        ValueError: If a file is no result, or is not named after what it holds.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        result = Result.load(path)
        if path.name != committed_path(result.experiment, result.layer).name:
            raise ValueError(f"{path} holds {result.experiment}, {result.layer}: its name should say so")
        found[result.experiment, result.layer] = result
    return found


def catalogue(experiments: Sequence[Experiment], results: Results) -> str:
    """The document: an overview by chapter, then each experiment with its tables and claims.

    Raises:
        ValueError: If there is a result of an unknown experiment or layer.
    """
    layers = {(experiment.name, layer) for experiment in experiments for layer in experiment.layers}
    if unknown := sorted(results.keys() - layers):
        names = ", ".join(committed_path(*place).name for place in unknown)
        raise ValueError(f"results of unknown experiments or layers: {names}")
    chapters = list(dict.fromkeys(experiment.chapter for experiment in experiments))
    in_chapter = {chapter: [e for e in experiments if e.chapter == chapter] for chapter in chapters}
    all_counts = sum((verdicts(experiment, results) for experiment in experiments), Counter[str]())
    parts = [
        INTRODUCTION,
        f"{len(experiments)} experiment{'' if len(experiments) == 1 else 's'}; claims: {_counted(all_counts)}.\n",
    ]
    for chapter in chapters:
        parts.append(f"## {chapter.capitalize()}\n")
        parts.append(_overview(in_chapter[chapter], results))
        parts += [_section(experiment, results) for experiment in in_chapter[chapter]]
    return "\n".join(parts)


def regenerate(root: Path) -> Path:
    """Write the document of the checkout at ``root``.

    Raises:
        ValueError: If a file or a result is wrong, or ``root`` is no checkout.
    """
    from effnlp.reproduce.read import read_all

    path = root / DOCUMENT
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not there: the document is made in a checkout of effnlp")
    write_atomically(path, catalogue(read_all(), published(root / "experiments" / RESULTS)))
    return path


def verdicts(experiment: Experiment, results: Results) -> Counter[str]:
    """How many claims of an experiment have each verdict; those of layers without a result are ``not run``."""
    found: Counter[str] = Counter()
    for layer in experiment.layers:
        result = results.get((experiment.name, layer))
        if result:
            found.update(claim.finding.verdict for claim in result.claims)
        else:
            found.update(
                NOT_TESTABLE if claim.not_testable else NOT_RUN
                for claim in experiment.claims
                if claim.layer == layer
            )
    return found


def _counted(counts: Mapping[str, int]) -> str:
    said = counts_in_words(counts)
    if not counts.get(NOT_RUN):
        return said
    rest = f"{counts[NOT_RUN]} {NOT_RUN}"
    return rest if said == counts_in_words({}) else f"{said}, {rest}"


def _overview(experiments: Sequence[Experiment], results: Results) -> str:
    lines = ["| experiment | question | layers | claims |", "| :-- | :-- | :-- | :-- |"]
    for experiment in experiments:
        layers = [
            layer if (experiment.name, layer) in results else f"{layer} ({NOT_RUN})"
            for layer in experiment.layers
        ]
        name = f"[{escaped(experiment.name)}](#{anchor(experiment)})"
        claims = _counted(verdicts(experiment, results))
        lines.append(f"| {name} | {escaped(experiment.question)} | {', '.join(layers)} | {claims} |")
    return "\n".join(lines) + "\n"


def heading(experiment: Experiment) -> str:
    """Of the section of an experiment."""
    return f"{experiment.title} ({experiment.name})"


def anchor(experiment: Experiment) -> str:
    """What links to the section: its heading in lower case with hyphens, as hosts of Markdown make it."""
    return re.sub(r"[^\w\- ]", "", heading(experiment).lower()).replace(" ", "-")


def _section(experiment: Experiment, results: Results) -> str:
    lines = [
        f"### {escaped(heading(experiment))}\n",
        f"{escaped(experiment.question)} {_cited(experiment)}\n",
    ]
    for name, layer in experiment.layers.items():
        result = results.get((experiment.name, name))
        lines.append(f"#### {name.capitalize()} layer\n")
        if said := layer_in_words(experiment, result) if result else layer.said:
            lines.append(f"{escaped(said)}\n")
        lines.append(_found(experiment, result) if result else _not_found(experiment, layer))
    if experiment.notes:
        lines.append("Notes:\n\n" + "\n".join(f"- {escaped(note)}" for note in experiment.notes) + "\n")
    return "\n".join(lines)


def _cited(experiment: Experiment) -> str:
    """The citation, its addresses as links."""
    words = experiment.citation.split()
    return " ".join(
        re.sub(r"^(https?://\S+?)([),.;]*)$", r"<\1>\2", word) if word.startswith("http") else escaped(word)
        for word in words
    )


def _found(experiment: Experiment, result: Result) -> str:
    claims = markdown_claims(result.claims)
    told = [f"`{result.command}`", spent_in_words(result.spent), f"finished {moment(result.finished)}"]
    if machine := machine_in_words(result.machine):
        told.append(escaped(machine))
    versions = ", ".join(f"{escaped(name)} {version}" for name, version in result.versions.items())
    return "\n".join(
        [
            markdown_table(tabulate(experiment, result)),
            *([claims] if claims else []),
            "<br>\n".join([*told, *([versions] if versions else [])]) + "\n",
        ]
    )


def _not_found(experiment: Experiment, layer: Layer) -> str:
    needs = ", ".join(f"{escaped(name.replace('_', ' '))} {amount:g}" for name, amount in layer.needs.items())
    lines = [
        f"No result is committed.{f' It needs: {needs}.' if needs else ''} "
        f"`effnlp reproduce {experiment.name} --layer {layer.name}` makes it.\n"
    ]
    claims = [_unchecked(claim) for claim in experiment.claims if claim.layer == layer.name]
    return "\n".join([*lines, *([markdown_claims(claims)] if claims else [])])


def _unchecked(claim: Claim) -> Checked:
    finding = Finding(NOT_TESTABLE, why=claim.not_testable) if claim.not_testable else Finding(NOT_RUN)
    frozen = claim.frozen.isoformat() if claim.frozen else None
    return Checked(claim.name, claim.says, claim.kind, claim.arguments, finding, frozen, claim.pilot)
