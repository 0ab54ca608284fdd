"""How long the dashboard takes over many records: from its start to the list, and for each filter.

    python benchmarks/dashboard.py

Writes records like those of a real sweep into a temporary folder, then times what the page waits for: importing,
reading all records, and the functions behind the callbacks, encoded as they are sent. With chromium and its driver
also the time in a headless browser, which draws WebGL without a GPU here: from the address to the rows and the plot,
and from the last key of a search to the new plot. Targets: list under 2 s, a filter under 0.3 s.
"""

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tables import publish
from turns import Spread

RECORDS = 10_000
IMPORT = "import time; t = time.perf_counter(); import effnlp.dashboard.app; print(time.perf_counter() - t)"
MODELS = {"bag_of_ngrams": 1e3, "backbone": 1e7, "pretrained": 1e9}
STAGES = ("data", "pretraining", "finetuning", "compression", "evaluation", "total")
OTHER_KEYS = [
    *(f"val/{name}" for name in ("macro_f1", "loss", "mcc", "ece", "brier")),
    *(f"val/class/{label}/{score}" for label in "ABCDEF" for score in ("precision", "recall", "f1")),
    *(
        f"robustness/perturbations/{kind}/0.1/accuracy"
        for kind in ("case", "delete", "swap", "typo", "space")
    ),
    *(f"fairness/length/{gap}" for gap in ("accuracy_gap", "tpr_gap", "fpr_gap", "ece_gap")),
    *(f"infer/fixed_batch/latency_seconds_{part}" for part in ("p50", "p50_low", "p50_high", "p95", "p99")),
]


def write_records(folder: Path, count: int) -> None:
    """``count`` completed or stopped runs of about 10 kB each, all different."""
    from effnlp.record import Record

    draw = random.Random(0)
    for number in range(count):
        model = draw.choice(list(MODELS))
        choices = {
            "model": model, "peft": draw.choice(["none", "lora", "bitfit"]), "task": "trec", "tracking": "files",
            "compression/pruning": draw.choice(["none", "magnitude"]), "hardware": "fp32", "trainer": "default",
            "compression/quantization": draw.choice(["none", "int8_dynamic", "int8_weight_only"]),
        }  # fmt: skip
        rate = 10 ** draw.uniform(-4, -2)
        settings = [f"finetuning.learning_rate={rate}", f"model.width={draw.choice([32, 64, 128])}"]
        identity = {
            "config_hash": f"{number:010x}", "seed_init": 0, "seed_order": 0, "task": "trec", "evaluator": "1",
            "task_fingerprint": "adba5c7ef9c81c68", "started": "2026-01-01T00:00:00+00:00",
            "overrides": [*(f"{group}={choice}" for group, choice in choices.items()), *settings],
            "packages": {f"package{n}": "1.0.0" for n in range(15)},
        }  # fmt: skip
        record = Record(draw.choice(["completed", "completed", "stopped"]), identity, choices)
        record.config = {
            f"group{n}": {"_target_": "effnlp.some.method", "one": 1, "two": 2.5, "three": None}
            for n in range(40)
        }
        work = MODELS[model] * 10 ** draw.uniform(-1, 1)
        record.put({"val/accuracy": 1 - draw.random() / work**0.1, "infer/single_stream/flops": work})
        record.put({key: draw.random() for key in OTHER_KEYS})
        record.put({"model/bytes": work * 4, "model/params": work, "model/trainable_params": work})
        for stage in STAGES:
            for quantity in (
                "seconds",
                "cpu_seconds",
                "flops",
                "energy_joules",
                "co2e_grams",
                "peak_memory_bytes",
            ):
                record.put({f"cost/{stage}/own/{quantity}": draw.random() * 100})
        record.notes["energy/method"] = "estimated"
        place = folder / f"sweep{number // 500}" / "trials" / f"{number:05d}"
        place.mkdir(parents=True)
        (place / "record.json").write_text(json.dumps(asdict(record), indent=1))  # not synced, unlike a run's


def seconds(function: Callable[[], Any], turns: int) -> list[float]:
    """Wall seconds of each of ``turns`` calls, after one that is not counted."""
    function()
    found = []
    for _ in range(turns):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return found


def functions(folder: Path, turns: int) -> dict[str, list[float]]:
    """What the server does: to read, to look again, and to answer a filter."""
    from dash._utils import to_json

    from effnlp.dashboard.board import Axes, Board, frontier_figure, option_counts, table_rows
    from effnlp.dashboard.data import Shown
    from effnlp.dashboard.index import Index
    from effnlp.dashboard.layout import first_place, page
    from effnlp.report.units import DOWN, UP

    index = Index(folder)
    index.refresh()
    board = Board(folder)
    runs, place = board.runs, first_place(board.runs)
    axes = Axes("infer/single_stream/flops", "val/accuracy", DOWN, UP, log_x=True)
    everything, some = Shown(place), Shown(place, ("completed",), {"model": ["backbone"]}, "lora 0")
    request = {"startRow": 0, "endRow": 100}

    def answer(asked: Shown) -> None:
        to_json([
            frontier_figure(runs, asked, axes, "model", [], "light"), option_counts(runs, asked),
            table_rows(runs, asked, axes, [], request),
        ])  # fmt: skip

    def first_list() -> None:
        to_json([page(board.runs, "runs"), table_rows(board.runs, everything, axes, [], request)])

    return {
        "read all records": seconds(lambda: Board(folder), turns),
        "look again, nothing changed": seconds(index.refresh, turns),
        "page and first rows": seconds(first_list, turns),
        "plot, counts and rows of a filter": seconds(lambda: answer(some), turns),
        "plot, counts and rows of all runs": seconds(lambda: answer(everything), turns),
    }


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium; None where it or its driver is missing."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        yield None
        return
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    with tempfile.TemporaryDirectory() as profile:
        for word in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "enable-unsafe-swiftshader",
                     f"user-data-dir={profile}", "window-size=1280,1000"):  # fmt: skip
            options.add_argument(f"--{word}")
        driver = webdriver.Chrome(options, Service(programs[1]))
        try:
            yield driver
        finally:
            driver.quit()


WATCH = """
window.changed = 0;
new MutationObserver(() => { window.changed = performance.now(); })
  .observe(document.getElementById("said"), {childList: true, subtree: true, characterData: true});
document.getElementById("words").addEventListener("input", () => { window.typed = performance.now(); });
"""

HAS = "const has = selector => Boolean(document.querySelector(selector));"
LISTED = f"{HAS} return has('#table .ag-row [col-id=what]')"
READY = f"{LISTED} && has('#plot .point, #plot canvas')"


def in_browser(folder: Path, turns: int) -> dict[str, list[float]]:
    """What a user waits for; empty without a browser."""
    from effnlp.dashboard.server import bind

    with browser() as driver:
        if driver is None:
            return {}
        server = bind(folder, "127.0.0.1", 0, None)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        listed, opened, filtered = [], [], []
        try:
            for turn in range(turns + 1):
                start = time.perf_counter()
                driver.get(f"http://127.0.0.1:{server.port}/")
                wait(lambda: driver.execute_script(LISTED))
                rows = time.perf_counter() - start
                wait(lambda: driver.execute_script(READY))
                if turn:  # the first one fills the cache of the browser
                    listed.append(rows)
                    opened.append(time.perf_counter() - start)
                time.sleep(2)
                driver.execute_script(WATCH)
                driver.find_element("id", "words").send_keys("lora")
                wait(lambda: driver.execute_script("return window.changed > window.typed"))
                filtered.append(driver.execute_script("return window.changed - window.typed") / 1000)
        finally:
            server.shutdown()
        return {
            "browser: page and rows": listed,
            "browser: page, rows and plot": opened,
            "browser: search to plot, 0.2 s of it waiting": filtered,
        }


def wait(done: Callable[[], Any]) -> None:
    """Until ``done``, at most a minute.

    Raises:
        TimeoutError: If it never was.
    """
    end = time.monotonic() + 60
    while not done():
        if time.monotonic() > end:
            raise TimeoutError("the page did not come to rest")
        time.sleep(0.01)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=RECORDS, help="how many (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=7, help="of each measurement (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_records(folder, options.records)
        imported = [
            float(
                subprocess.run(
                    [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
                ).stdout
            )
            for _ in range(options.turns)
        ]
        found = {"import": imported, **functions(folder, options.turns), **in_browser(folder, options.turns)}
    publish(
        "dashboard",
        {
            "records": options.records,
            "turns": options.turns,
            "seconds": {name: asdict(Spread.of(values)) for name, values in found.items()},
        },
        packages=("pandas", "numpy"),
        write=options.records == RECORDS,
    )


if __name__ == "__main__":
    main()
