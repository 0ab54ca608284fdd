"""The tables of the benchmarks, made from their results: for the terminal and for README.md.

    python benchmarks/tables.py

Rewrites what stands between `<!-- NAME -->` and `<!-- /NAME -->` in README.md from results/NAME.json, so that
the tables there are the results as measured.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE / "README.md"
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names what the row is about."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table for README.md."""
        lines = [self.header, ["---", *("---:" for _ in self.header[1:])], *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(value: Mapping[str, float], digits: int = 2, scale: float = 1.0) -> str:
    """Median and quartiles."""
    median, lower, upper = (value[key] * scale for key in ("median", "lower", "upper"))
    return f"{median:.{digits}f} ({lower:.{digits}f}–{upper:.{digits}f})"


def startup_table(result: Mapping[str, Any]) -> Table:
    """One row a command."""
    rows = [
        [f"`{name}`", spread(found["seconds"], 3), spread(found["ratio"])]
        for name, found in result["commands"].items()
    ]
    return Table(["command", "seconds", "times `import hydra`"], rows)


def training_step_table(result: Mapping[str, Any]) -> Table:
    """Milliseconds of each candidate, then the ratios, for each model."""
    rows = []
    for model, found in result["models"].items():
        for which, value in found["seconds"].items():
            fastest = f"{found['fastest_seconds'][which] * 1e3:.1f} ms"
            rows.append([model, which, f"{spread(value, 1, scale=1e3)} ms", fastest, ""])
        for ratio in found["ratios"]:
            target = "" if ratio["target"] is None else f"≤ {ratio['target']:.2f}"
            name = f"{ratio['of']} / {ratio['to']}"
            rows.append([model, name, spread(ratio["ratio"], 3), f"{ratio['fastest']:.3f}", target])
    return Table(["model", "loop", "a step", "fastest turn", "target"], rows)


def wall_time_table(result: Mapping[str, Any]) -> Table:
    """What worker-seconds were spent on, most first, and what is neither training nor evaluation."""
    seconds = result["worker_seconds"]
    whole = sum(seconds.values())
    parts = sorted(seconds.items(), key=lambda part: -part[1])
    rows = [[name, f"{value:.1f}", f"{value / whole:.1%}"] for name, value in parts]
    overhead = result["share_of_overhead"]
    rows.append(["all", f"{whole:.1f}", "100.0%"])
    rows.append(["neither training nor evaluation", f"{overhead * whole:.1f}", f"{overhead:.1%}"])
    return Table(["spent on", "worker-seconds", "share"], rows)


def int8_linear_table(result: Mapping[str, Any]) -> Table:
    """One row a shape: milliseconds, and how many times faster than float32."""
    names = list(result["shapes"][0]["median_seconds"])
    rows = []
    for shape in result["shapes"]:
        medians = shape["median_seconds"]
        cells = [f"{medians[name] * 1e3:.3f} ({medians['float32'] / medians[name]:.2f}×)" for name in names]
        rows.append([f"{shape['rows']} × {shape['width_in']} → {shape['width_out']}", *cells])
    return Table(["rows × widths", *names], rows)


def int8_table(result: Mapping[str, Any]) -> Table:
    """One row a candidate: megabytes, and milliseconds of each shape with how many times faster than float32."""
    rows = []
    for name in result["shapes"][0]["candidates"]:
        cells = []
        for shape in result["shapes"]:
            found = shape["candidates"][name]
            cells.append(f"{found['seconds']['median'] * 1e3:.1f} ({1 / found['ratio']['median']:.2f}×)")
        rows.append([name, *megabytes([result["bytes"].get(name)]), *cells])
    shapes = [f"{shape['texts']} × {shape['tokens']}" for shape in result["shapes"]]
    return Table([f"texts × tokens, {result['threads']} threads", "stored", *shapes], rows)


def rung_decision_table(result: Mapping[str, Any]) -> Table:
    """One row a rung, in milliseconds."""
    names = list(dict.fromkeys(name for rung in result["rungs"] for name in rung["seconds"]))
    rows = [
        [
            f"{rung['kind']}, {rung['objectives']} objectives",
            *(
                spread(rung["seconds"][name], 1, scale=1e3) if name in rung["seconds"] else ""
                for name in names
            ),
        ]
        for rung in result["rungs"]
    ]
    return Table(["records", *(f"{name}, ms" for name in names)], rows)


def storage_table(result: Mapping[str, Any]) -> Table:
    """Opening, writing, and what many workers lost, one figure a row."""
    opening, crowd = result["opening"], result["crowd"]
    size = f"{opening['journal_bytes'] / 1e6:.1f} MB"
    rows = [
        [f"open a journal of {opening['trials']:,} trials ({size}) {way}", f"{spread(seconds, 3)} s"]
        for way, seconds in opening["seconds"].items()
    ]
    rows += [
        [f"write a trial ({opening['attributes']} attributes): {which}", f"{spread(value, 1)} ms"]
        for which, value in result["trial_milliseconds"].items()
    ]
    many = f"{crowd['workers']} workers, {crowd['slots']} trials on PostgreSQL {result['postgresql']}"
    rows.append([f"{many}: all", f"{crowd['seconds']:.0f} s"])
    rows += [
        [f"{many}: {name.replace('_', ' ')}", str(crowd[name])]
        for name in ("slots_lost", "slots_taken_twice", "trials_with_records_lost")
    ]
    return Table(["what", "figure"], rows)


def search_quality_table(result: Mapping[str, Any]) -> Table:
    """One row a problem and method: hypervolume after budgets, the paired difference to random, what it took."""
    at = (10, result["budget_in_whole_runs"])
    rows = []
    for problem, found in result["problems"].items():
        for method, figures in found["methods"].items():
            cells = [
                f"{figures['mean'][budget - 1]:.3f} ± {figures['standard_error'][budget - 1]:.3f}"
                for budget in at
            ]
            reached = figures["budget_to_reach_random"]
            less = [found["differences"].get(f"{method} - {other}") for other in ("random", "scalarised")]
            rows.append([
                problem, method, *cells,
                *("{mean:+.3f} ({lower:+.3f} to {upper:+.3f})".format(**found) if found else "" for found in less),
                f"{reached:g}" if reached is not None else "never",
                f"{figures['finished']:.0f} of {figures['trials']:.0f}",
            ])  # fmt: skip
    header = [f"after {budget} runs" for budget in at]
    header += ["less random", "less scalarised", "random's end after", "trials finished"]
    return Table(["problem", "method", *header], rows)


def resume_table(result: Mapping[str, Any]) -> Table:
    """One row a kind of folder."""
    rows = [[kind, f"{spread(found)} s"] for kind, found in result["seconds"].items()]
    return Table(["a sweep with", "until its next trial starts"], rows)


def sweep_overhead_table(result: Mapping[str, Any]) -> Table:
    """One row a kind of sweep."""
    rows = [
        [
            name,
            f"{found['span_seconds']:.1f} s",
            f"{found['overhead_seconds']:.3f} s",
            f"{100 * found['idle_share']:.1f} %",
        ]
        for name, found in result["rows"].items()
    ]
    return Table(["trials", "time", "overhead a trial", "slots idle"], rows)


def evaluation_cost_table(result: Mapping[str, Any]) -> Table:
    """One row a part of the evaluation."""
    full = result["full_finetuning_seconds"]
    rows = [
        [name, f"{seconds:.1f} s", f"{100 * seconds / full:.2f} %"]
        for name, seconds in result["seconds"].items()
    ]
    rows.append(
        [f"three epochs of SST-2, at {1000 * result['step_seconds']:.0f} ms a step", f"{full:.0f} s", "100 %"]
    )
    return Table(["part", "time", "of the fine-tuning"], rows)


def repeatability_table(result: Mapping[str, Any]) -> Table:
    """One row a figure of a model: its values in order, and the farthest from the middle one."""
    rows = []
    for model, figures in result["models"].items():
        for key, found in figures.items():
            values = sorted(found["values"])
            scale, unit = {"seconds": (1e3, "ms"), "joules": (1e3, "mJ"), "bytes": (1e-6, "MB")}[
                key.removesuffix("_p50").removesuffix("_p95").rpartition("_")[2]
            ]
            ends = f"{values[0] * scale:.3g}–{values[-1] * scale:.3g} {unit}"
            target = f"≤ {result['target']:.0%}" if key == "latency_seconds_p50" else ""
            rows.append([f"{model}: `{key}`", ends, f"{found['largest_deviation']:.1%}", target])
    steady = result["windows_of_one_process"]
    for model, windows in steady["largest_deviation"].items():
        for window, deviation in windows.items():
            what = f"{model}: median latency in windows of {window} s of one process"
            rows.append([what, f"{steady['seconds']:.0f} s", f"{deviation:.1%}", ""])
    return Table(["figure", f"{result['processes']} processes", "farthest from the median", "target"], rows)


def dashboard_table(result: Mapping[str, Any]) -> Table:
    """One row a thing that is waited for."""
    rows = [[name, f"{spread(found, 3)} s"] for name, found in result["seconds"].items()]
    return Table([f"{result['records']:,} records", "time"], rows)


def report_scale_table(result: Mapping[str, Any]) -> Table:
    """One figure a row."""
    rows = []
    for verb, found in (("report", result), ("compare", result["compare"])):
        load = f"{found['load']:.0f}"
        rows += [
            [f"`{verb}`: seconds", spread(found["seconds"])],
            [f"`{verb}`: of them CPU time (load of the machine {load})", spread(found["cpu_seconds"])],
            [f"`{verb}`: peak of resident memory", f"{found['peak_memory_bytes'] / 1e9:.2f} GB"],
        ]
    rows.append(["the page", f"{result['page_bytes'] / 1e6:.1f} MB"])
    size = f"{result['bytes_of_records'] / 1e6:.0f} MB"
    return Table([f"`effnlp report` on {result['records']:,} records ({size})", "figure"], rows)


def peft_step_table(result: Mapping[str, Any]) -> Table:
    """One row a method, both sides of it and their ratio."""
    rows = []
    for method, found in result["methods"].items():
        peaks = [found["said"][whose]["peak_memory_bytes"] for whose in ("effnlp", "peft")]
        builds = [found["said"][whose]["build_seconds"] for whose in ("effnlp", "peft")]
        rows += [
            [f"{method}: seconds of a step", *(spread(found["seconds"][w], 3) for w in ("effnlp", "peft")),
             spread(found["ratio"]), f"≤ {result['target']:.2f}"],
            [f"{method}: peak memory", *megabytes(peaks), ratio(peaks), f"≤ {result['target']:.2f}"],
            [f"{method}: load and inject", *(f"{value:.2f} s" for value in builds), ratio(builds),
             f"≤ {result['build_target_seconds']:.0f} s"],
        ]  # fmt: skip
    return Table(["MiniLM", "effnlp", "peft", "effnlp / peft", "target"], rows)


def peft_families_table(result: Mapping[str, Any]) -> Table:
    """One row a family on a model."""
    rows = [
        [f"{model}: `{family}`", *["—"] * 6] if "ended" in found else
        [f"{model}: `{family}`", f"{found['trainable_params']:,}", f"{spread(found['seconds'], 2)} s",
         spread(found["ratio"]), *megabytes(
             [found[key] for key in ("peak_memory_bytes", "optimizer_bytes", "delta_bytes")])]
        for model, families in result["models"].items() for family, found in families.items()
    ]  # fmt: skip
    header = ["model and family", "trained", "a step", "of full", "peak memory", "optimizer", "kept"]
    return Table(header, rows)


def serving_table(result: Mapping[str, Any]) -> Table:
    """One row a number of tasks and a way to serve them."""
    rows = []
    for count, ways in result["tasks"].items():
        for way, found in ways.items():
            swap = found["swap_seconds"]
            rows.append(
                [f"{count}: {way}", *megabytes([found["held_bytes"], found["stored_bytes"]]),
                 "none" if swap is None else milliseconds(swap), milliseconds(found["text_seconds"])]
            )  # fmt: skip
    return Table(["tasks", "in memory", "on disk", "a swap", "a text"], rows)


def early_exit_table(result: Mapping[str, Any]) -> Table:
    """One row a size of a batch."""
    rows = [
        [f"batches of {size}", *(milliseconds(found["text_seconds"][way])
                                 for way in ("without exits", "nobody leaves", "texts leave")),
         f"{found['expected_saving']:.1%}", f"{found['saved']['median']:.1%}",
         spread(found["to_formula"]), f"{1 - result['target']:.2f}–{1 + result['target']:.2f}"]
        for size, found in result["batches"].items()
    ]  # fmt: skip
    header = ["a text in", "without exits", "nobody leaves", "texts leave", "expected saving", "saved",
              "measured / formula", "target"]  # fmt: skip
    return Table(header, rows)


def sparse_table(result: Mapping[str, Any]) -> Table:
    """One row a candidate: bytes of its linear layers, and its time against that of dense float32."""
    batches = result["batches"]
    rows = []
    for name in next(iter(batches.values())):
        stored = result["bytes"].get(name)
        share = "—" if stored is None else f"{stored / result['bytes']['float32']:.2f}"
        times = [
            cell
            for found in batches.values()
            for cell in (milliseconds(found[name]["seconds"]), spread(found[name]["ratio"]))
        ]
        rows.append([name, *megabytes([stored]), share, *times])
    header = [title for size in batches for title in (f"batch of {size}", f"/ float32 at {size}")]
    return Table([f"texts of {result['tokens']} tokens", "linear layers", "/ float32", *header], rows)


def structured_table(result: Mapping[str, Any]) -> Table:
    """One row a figure, with its target."""
    targets = result["targets"]
    rows = [
        [
            f"times as fast, batch of {size}",
            spread(found["dense"]["ratio"]),
            f"≥ {targets['speed']}" if size == "32" else "",
        ]
        for size, found in result["batches"].items()
    ]
    lost = result["accuracy"]["dense"] - result["accuracy"]["pruned"]
    rows.append(["points of accuracy lost", f"{100 * lost:.1f}", f"≤ {100 * targets['lost']:.0f}"])
    rows.append(["masked and cut apart", f"{result['apart']:.1e}", f"≤ {targets['apart']:.0e}"])
    return Table(["pruned against dense", "measured", "target"], rows)


def solvers_table(result: Mapping[str, Any]) -> Table:
    """One row a solver."""
    gptq, allocation, targets = result["gptq"], result["allocation"], result["targets"]
    whole = f"≤ {targets['gptq_seconds']:.0f} s, both"
    rows = [
        ["GPTQ on MiniLM: calibration", f"{spread(gptq['calibration'], 1)} s", whole],
        ["GPTQ on MiniLM: rounding", f"{spread(gptq['rounding'], 1)} s", whole],
        [f"bits for {allocation['layers']} layers", f"{spread(allocation['seconds'], 3)} s",
         f"≤ {targets['allocation_seconds']:.0f} s"],
        ["the same, the longest", f"{allocation['longest_seconds']:.3f} s", f"≤ {targets['allocation_seconds']:.0f} s"],
    ]  # fmt: skip
    return Table(["solver", "seconds", "target"], rows)


def megabytes(values: Sequence[float | None]) -> list[str]:
    """Bytes as shown; a dash where the system does not say."""
    return ["—" if value is None else f"{value / 1e6:.1f} MB" for value in values]


def milliseconds(found: Mapping[str, float]) -> str:
    """Median and quartiles of seconds, shown in milliseconds."""
    return f"{spread(found, 1, 1e3)} ms"


def ratio(values: Sequence[float | None]) -> str:
    """The first through the second."""
    one, other = values
    return "—" if one is None or other is None else f"{one / other:.2f}"


TABLES: dict[str, Callable[[Mapping[str, Any]], Table]] = {
    "evaluation_cost": evaluation_cost_table,
    "dashboard": dashboard_table,
    "early_exit": early_exit_table,
    "int8": int8_table,
    "int8_linear": int8_linear_table,
    "peft_families": peft_families_table,
    "peft_step": peft_step_table,
    "repeatability": repeatability_table,
    "report_scale": report_scale_table,
    "resume": resume_table,
    "rung_decision": rung_decision_table,
    "search_quality": search_quality_table,
    "serving": serving_table,
    "solvers": solvers_table,
    "sparse": sparse_table,
    "startup": startup_table,
    "storage": storage_table,
    "structured": structured_table,
    "sweep_overhead": sweep_overhead_table,
    "training_step": training_step_table,
    "wall_time": wall_time_table,
}
"""Name of a benchmark to the function that makes its table."""


def conditions(result: Mapping[str, Any]) -> str:
    """Where and with what it was measured, in a line."""
    machine, versions = result["machine"], result["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {packages}."


def publish(name: str, content: Mapping[str, Any], packages: Sequence[str] = (), write: bool = True) -> None:
    """Show the table, and write results/NAME.json with the machine and versions.

    Args:
        packages: Whose versions can change the figures, besides effnlp and Python.
        write: False for a part of a benchmark, which must not take the place of the whole.
    """
    import platform
    from importlib.metadata import version

    from rich.console import Console

    from effnlp import __version__
    from effnlp.provenance import machine, now, versions

    made = {
        "machine": machine(),
        "versions": {"effnlp": __version__, "python": platform.python_version()}
        | {package: versions().get(package) or version(package) for package in packages},
        "measured": now(),
        **content,
    }
    show(TABLES[name](made), conditions(made), Console())
    if write:
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(made, indent=1, ensure_ascii=False)
        (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def show(table: Table, caption: str, console: Any) -> None:
    """Print a table."""
    from rich.table import Table as RichTable

    shown = RichTable(caption=caption)
    for index, title in enumerate(table.header):
        shown.add_column(title, justify="right" if index else "left")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


def filled(text: str, results: Path) -> str:
    """``text`` with the table of every result between its markers.

    Raises:
        ValueError: If a result has no markers in the text: it would be left out in silence.
    """
    for name, table in TABLES.items():
        path = results / f"{name}.json"
        if not path.is_file():
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        made = f"<!-- {name} -->\n{table(result).markdown()}\n\n{conditions(result)}\n<!-- /{name} -->"
        parts = re.split(rf"<!-- {name} -->.*?<!-- /{name} -->", text, flags=re.DOTALL)
        if len(parts) != 2:
            raise ValueError(f"README.md needs the markers of {name} once, has them {len(parts) - 1} times")
        text = made.join(parts)
    return text


def main() -> None:
    """Rewrite README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    README.write_text(filled(README.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")


if __name__ == "__main__":
    main()
