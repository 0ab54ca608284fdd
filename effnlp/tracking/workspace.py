"""A workspace and a report in W&B over the runs of a project: the frontier against each cost, choices, curves.

Source: wandb-workspaces, https://github.com/wandb/wandb-workspaces
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  effnlp dashboard --wandb effnlp                         axes of any project
  effnlp dashboard --wandb effnlp multirun/mine           axes and choices in which the runs of a sweep differ
  effnlp dashboard --wandb effnlp --dry-run               print what would be made, as JSON

Needs `pip install 'effnlp[workspaces]'` and a login (`wandb login`); --dry-run needs no login. Runs must be there
before: tracking=wandb tracking.mode=online, or `effnlp sync DIR` later.
"""

QUALITY = "val/accuracy"

COSTS = (
    "infer/single_stream/latency_seconds_p50", "infer/single_stream/flops", "infer/single_stream/energy_joules",
    "infer/fixed_batch/examples_per_second", "model/bytes", "model/params", "cost/total/own/energy_joules",
    "cost/total/own/seconds", "cost/total/own/flops", "cost/total/own/co2e_grams",
)  # fmt: skip
"""Axes of cost, each with a panel against quality."""

GROUPS = ("data/filter", "data/order", "model", "model/mixer", "peft", "compression/distillation",
          "compression/vocabulary", "compression/elastic", "compression/token_dropping", "compression/early_exit",
          "compression/pruning", "compression/quantization")  # fmt: skip
"""Config groups whose choices are axes of the parallel coordinates."""

STAGES = ("data", "pretraining", "finetuning", "compression", "evaluation")

ALSO = ("robustness/", "fairness/", "reference/")
"""Beginnings of keys that have a section of their own where runs have them."""

MOST_PANELS = 24
"""In one section: a project with everything on has hundreds of keys."""


def parser() -> argparse.ArgumentParser:
    """What the verb understands when it is about W&B."""
    made = argparse.ArgumentParser(
        prog="effnlp dashboard --wandb", description="Make a workspace and a report in W&B.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("--wandb", metavar="PROJECT", required=True, help="project of W&B")
    made.add_argument("--entity", help="user or team of W&B (default: that of the login)")
    made.add_argument("--dry-run", action="store_true", help="print the specification as JSON, send nothing")
    made.add_argument(
        "folders", metavar="DIR", nargs="*", type=Path, help="records whose keys and choices are shown"
    )
    return made


def main_wandb(arguments: list[str]) -> int:
    """Make both, or print them; 1 if W&B refuses, 2 if something is missing here."""
    options = parser().parse_args(arguments)
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        sys.stderr.write("effnlp dashboard: wandb-workspaces is not here: pip install 'effnlp[workspaces]'\n")
        return 2
    try:
        costs, groups, others = axes(options.folders)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"effnlp dashboard: {error}\n")
        return 2
    try:
        entity = options.entity or ("ENTITY" if options.dry_run else _default_entity())
        made = (
            workspace(entity, options.wandb, costs, groups, others),
            report(entity, options.wandb, costs, groups),
        )
        if options.dry_run:
            sys.stdout.write(json.dumps(specification(*made), indent=1) + "\n")
            return 0
        for each in made:
            each.save()
            sys.stdout.write(f"{each.url}\n")
    except Exception as error:  # of the library or of the server, whatever they raise
        sys.stderr.write(
            f"effnlp dashboard: W&B said: {' '.join(str(error).split())}; `wandb login` says who you are, "
            "--dry-run shows what would be made, `effnlp dashboard DIR` needs no account\n"
        )
        return 1
    return 0


def axes(folders: Sequence[Path]) -> tuple[list[str], list[str], list[str]]:
    """Cost keys, config groups and further keys to show: those of the records, or the usual ones without any.

    Raises:
        ValueError: If there is no record below a folder.
    """
    if not folders:
        return list(COSTS), list(GROUPS), []
    from effnlp.report.read import read_records

    records = [loaded.record for loaded in read_records(folders).loaded]
    keys = {key for record in records for key in record.values}
    made: dict[str, set[str]] = {}
    for record in records:
        for group, choice in record.choices.items():
            made.setdefault(group, set()).add(choice)
    others = sorted(key for key in keys if key.startswith(ALSO) and not key.endswith(("_low", "_high")))
    groups = [group for group, choices in made.items() if len(choices) > 1]
    return [key for key in COSTS if key in keys], groups, others[:MOST_PANELS]


def workspace(
    entity: str, project: str, costs: Sequence[str], groups: Sequence[str], others: Sequence[str] = ()
) -> Any:
    """A saved view of the project: sections of panels over its runs."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces

    def bars(keys: Sequence[str]) -> list[Any]:
        return [panels.BarPlot(title=key, metrics=[panels.SummaryMetric(key)]) for key in keys]

    curves: list[Any] = [
        panels.LinePlot(title=key, x=panels.Metric("finetuning/step"), y=[panels.Metric(key)])
        for key in ("val/accuracy", "train/loss", "train/learning_rate")
    ]
    sections = [
        workspaces.Section(name="Frontier", panels=_scatters(costs), is_open=True, pinned=True),
        workspaces.Section(name="Choices", panels=[_choices(costs, groups)], is_open=True),
        workspaces.Section(
            name="Cost by stage",
            panels=bars([f"cost/{stage}/own/energy_joules" for stage in STAGES]
                        + [f"cost/{stage}/own/seconds" for stage in STAGES]),
        ),
        workspaces.Section(name="Curves", panels=curves),
    ]  # fmt: skip
    if others:
        sections.append(workspaces.Section(name="Beyond accuracy", panels=bars(others)))
    return workspaces.Workspace(
        entity=entity, project=project, name="effnlp: quality against cost", sections=sections
    )


def report(entity: str, project: str, costs: Sequence[str], groups: Sequence[str]) -> Any:
    """A report: the frontier's table, one panel a cost, and the choices side by side."""
    import wandb_workspaces.reports.v2 as panels

    def runset(name: str, query: str = "") -> Any:
        return panels.Runset(
            entity="", project=project, name=name, query=query
        )  # without an entity: the report's own

    frontier = panels.CustomChart(
        query={"summaryTable": {"tableKey": "frontier"}}, chart_name="wandb/scatter/v0"
    )
    return panels.Report(
        entity=entity, project=project, title="Quality against cost", width="fluid",
        description="Made by effnlp dashboard --wandb. Validation quality against each cost, over all runs.",
        blocks=[
            panels.H2(text="Frontier"),
            panels.P(text="The frontiers of sweeps, and quality against each cost of all runs. Energies are measured "
                          "or estimated; the two are not to be read on one axis."),
            panels.PanelGrid(runsets=[runset("frontiers", "frontier")], panels=[frontier]),
            panels.PanelGrid(runsets=[runset("runs")], panels=_scatters(costs)),
            panels.H2(text="Choices"),
            panels.PanelGrid(runsets=[runset("runs")], panels=[_choices(costs, groups)]),
            panels.H2(text="Two runs"),
            panels.PanelGrid(runsets=[runset("runs")], panels=[panels.RunComparer(diff_only="split")]),
        ],
    )  # fmt: skip


def specification(made_workspace: Any, made_report: Any) -> dict[str, Any]:
    """Both as the library would send them."""
    return {
        name: made._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
        for name, made in (("workspace", made_workspace), ("report", made_report))
    }


def _scatters(costs: Sequence[str]) -> list[Any]:
    import wandb_workspaces.reports.v2 as panels

    return [
        panels.ScatterPlot(
            title=f"{QUALITY} against {key}", x=panels.SummaryMetric(key), y=panels.SummaryMetric(QUALITY),
            log_x=True,
        )
        for key in costs
    ]  # fmt: skip


def _choices(costs: Sequence[str], groups: Sequence[str]) -> Any:
    import wandb_workspaces.reports.v2 as panels

    def column(metric: Any, log: bool = False) -> Any:
        return panels.ParallelCoordinatesPlotColumn(metric=metric, log=log)

    chosen = [column(panels.Config(f"choices.{group}")) for group in groups]
    ends = [column(panels.SummaryMetric(key), log=True) for key in costs[:3]]
    return panels.ParallelCoordinatesPlot(
        title="Choices, cost and quality", columns=[*chosen, *ends, column(panels.SummaryMetric(QUALITY))]
    )


def _default_entity() -> str:
    import wandb

    entity = wandb.Api().default_entity
    if not entity:
        raise ValueError("the login has no default entity: give --entity")
    return str(entity)
