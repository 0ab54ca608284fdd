"""An experiment as it could be, with results of two layers: verdicts of all kinds, holes, unverified figures."""

import datetime

import pytest

from effnlp.reproduce.experiment import Claim, Column, Computed, Experiment, Layer, Published
from effnlp.reproduce.result import (
    FAILS,
    HOLDS,
    NOT_TESTABLE,
    UNDECIDED,
    Cell,
    Checked,
    Finding,
    Hole,
    Result,
    Spent,
)

MACHINE = {
    "cpu": "A processor",
    "cores": 2,
    "memory_bytes": 8_000_000_000,
    "gpus": [],
    "system": "Linux x86_64",
}
VERSIONS = {"effnlp": "0.1.0", "torch": "2.11.0", "evaluator": "2", "python": "3.11.9"}


@pytest.fixture
def experiment():
    claim = Claim("accuracy_kept", "LoRA keeps the accuracy.", "small", frozen=datetime.date(2026, 11, 22))
    return Experiment(
        name="peft_like",
        chapter="finetuning",
        title="Few parameters & 100 % of the quality",
        citation="Hu et al. (2022), https://arxiv.org/abs/2106.09685",
        question="How much accuracy does training <1 % of the weights keep?",
        columns=[
            Column("SST-2", "val/accuracy", "%", 100.0, 1, better="max"),
            Column("trained", "model/trainable_params", "M", 1e-6, 2, exact=True, better="min"),
            Column("TREC_50", "val/accuracy", "%", 100.0, 1, better="max"),
            Column("MNLI", "val/accuracy", "%", 100.0, 1, better="max"),
        ],
        layers={
            "analytic": Layer("analytic", computed=[Computed("a.b")]),
            "small": Layer(
                "small", rows={"full": [], "LoRA": [], "BitFit": []}, said="Six layers, not twelve."
            ),
        },
        claims=[claim],
        published=[
            Published("full", "SST-2", 94.8, "Table 2", "full_text"),
            Published(
                "LoRA", "SST-2", 95.1, "Table 2", "full_text", spread=0.2, note="The median of 5 seeds"
            ),
            Published("BitFit", "SST-2", 93.7, "Table 2", "other_source", paper="a later paper"),
            Published("full", "trained", 125.0, "Table 2", "full_text"),
            Published("LoRA", "trained", 0.3, "Table 2", "full_text"),
            Published("LoRA", "MNLI", 87.5, "Table 2", "full_text"),
        ],
        rows=["full", "BitFit"],
        notes=["The README counts 0.8 M with the head."],
        figure={"kind": "scatter", "x": "trained", "y": ["SST-2"], "log": ["x"]},
    )


@pytest.fixture
def small():
    return Result(
        experiment="peft_like",
        layer="small",
        command="effnlp reproduce peft_like --layer small",
        finished="2026-11-22T10:00:00+00:00",
        machine=MACHINE,
        versions=VERSIONS,
        cells=[
            Cell("LoRA", "SST-2", {"0": 91.0, "1": 92.0, "2": 93.5}),
            Cell("full", "SST-2", {"0": 92.0, "1": 92.5, "2": 93.0}),
            Cell("LoRA", "trained", {"0": 0.147456}, is_exact=True),
            Cell("full", "trained", {"0": 22.71, "1": 22.71}, is_exact=True),
            Cell("full", "TREC_50", {"0": 71.0}),
        ],
        claims=[
            Checked("a", "LoRA keeps the accuracy.", "paired_difference",
                    {"of": {"row": "LoRA", "column": "SST-2"}, "to": {"row": "full", "column": "SST-2"},
                     "at_least": -1.0},
                    Finding(UNDECIDED, -0.333, -1.73, 1.06, 3, "3 pairs of seeds, Student's t"),
                    "2026-11-22", "-0.3 ± 0.9"),
            Checked("b", "It trains < 1 % of the weights.", "ratio", {"at_most": 0.01},
                    Finding(HOLDS, 0.0065, 0.0065, 0.0065)),
            Checked("c", "A false one.", "ratio", {"at_least": 2}, Finding(FAILS, 1.0, 0.9, 1.1, 3), "2026-11-22"),
            Checked("d", "On eight GPUs, it is the best.", "", {}, Finding(NOT_TESTABLE, why="needs 8 GPUs")),
        ],
        holes=[Hole("BitFit", "SST-2", "seed 1 failed: out of memory", "effnlp run peft=bitfit seed=1")],
        spent=Spent(seconds=12.0, runs=4, reused=2, run_seconds=700.0, energy_joules=9000.0, energy_method="estimated"),
        fingerprints={"sst2": "abc123"},
    )  # fmt: skip


@pytest.fixture
def analytic():
    return Result(
        experiment="peft_like",
        layer="analytic",
        command="effnlp reproduce peft_like --layer analytic",
        finished="2026-11-22T10:00:00+00:00",
        machine=MACHINE,
        versions=VERSIONS,
        cells=[
            Cell("LoRA", "trained", {"0": 0.294912}, is_exact=True),
            Cell("full", "trained", {"0": 124.65}, is_exact=True),
        ],
        claims=[],
        holes=[],
    )
