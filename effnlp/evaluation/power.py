"""Where energy is read: cumulative joules of a domain, with how much of it was used by whom.

A domain is one thing that draws power: all processor packages, or one GPU. Sensors (RAPL for packages, NVML
for GPUs) are ``measured``; without one, a stated model of the processor is ``estimated``.

Source: Courty et al. (2024), CodeCarbon, https://doi.org/10.5281/zenodo.11171501 (table of thermal design
power, watts of a core of an unknown processor, idle share).
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil

log = logging.getLogger(__name__)

Method = Literal["measured", "estimated"]

POWERCAP = Path("/sys/class/powercap")

IDLE_SHARE_OF_TDP = 0.1  # CodeCarbon's lower bound of a processor's power

_busy_fields = ("user", "nice", "system", "irq", "softirq")


@dataclass(frozen=True)
class Sample:
    """Cumulative readings of a domain at one moment.

    Attributes:
        joules: Of the whole domain.
        own_seconds: Time that this run used of it (processor or device time).
        busy_seconds: Time that everybody used of it; at least ``own_seconds`` in the long run.
        active_runs: How many runs share it now, this one included; 0 if this one does not use it.
        seconds: When ``joules`` were read, by a clock that never goes back; None: about when they were asked for. On a
            busy machine that may be a while before.
    """

    joules: float
    own_seconds: float
    busy_seconds: float
    active_runs: int
    seconds: float | None = None


class Domain(Protocol):
    """One thing that draws power.

    ``idle_watts`` is what it draws when nobody uses it, ``constants`` what a reader must know to judge or
    repeat the figures.
    """

    name: str
    method: Method
    idle_watts: float
    constants: Mapping[str, float | str]

    def sample(self) -> Sample:
        """Read it now. Raises whatever the sensor raises."""
        ...


def own_cpu_seconds() -> float:
    """Processor time of this process and of its children, ended or alive.

    A child that ends meanwhile would be counted among both or among none, and what is missed once is charged twice
    later on: then it is read again.
    """
    while True:
        before = _ended_cpu_seconds()
        spent = time.process_time() + sum(_cpu_seconds(pid) for pid in _descendants(os.getpid()))
        if _ended_cpu_seconds() == before:
            return spent + before


def _ended_cpu_seconds() -> float:
    """Processor time of the children of this process that have ended and were waited for."""
    ended = os.times()
    return ended.children_user + ended.children_system


def busy_cpu_seconds() -> float:
    """Processor time that everybody on the machine used."""
    times = psutil.cpu_times()
    return sum(getattr(times, field, 0.0) for field in _busy_fields)


def _cpu_seconds(pid: int) -> float:
    """Processor time of a living process and of its ended children; 0 if it has gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    ended = times.children_user + times.children_system
    precise = _clock_of(pid)
    return ended + (times.user + times.system if precise is None else precise)


def _clock_of(pid: int) -> float | None:
    """Processor time of a living process to the nanosecond; None where the system has no such clock.

    The times in ``/proc`` go in steps of 10 ms, too coarse for the requests of a small model.
    """
    if sys.platform != "linux":
        return None
    try:
        return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3), of all threads
    except (OSError, OverflowError):
        return None


def _descendants(pid: int) -> list[int]:
    """Living children of a process, and theirs.

    Linux lists the children of each thread; a walk over all processes would cost tens of milliseconds.
    """
    tasks = Path(f"/proc/{pid}/task")
    try:
        children = [
            int(child)
            for task in tasks.iterdir()
            for child in (task / "children").read_text(encoding="ascii").split()
        ]
    except FileNotFoundError:
        if tasks.parent.exists() or tasks.parents[2].joinpath("self").exists():
            return []  # it has gone meanwhile
        try:
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        except psutil.Error:
            return []
    except OSError:
        return []
    return [*children, *(further for child in children for further in _descendants(child))]


class RaplPackages:
    """All processor packages of the machine, read from RAPL through Linux's powercap.

    Packages are taken once, though a machine may show them through two interfaces; their sub-domains are
    part of them. Counters that wrap around are carried on.

    Args:
        files: Counter in microjoules to its largest value.
        idle_watts: Of all packages together.
        own_seconds, busy_seconds, active_runs: As in :class:`Sample`.
    """

    name = "processor"
    method: Method = "measured"

    def __init__(
        self,
        files: Mapping[Path, int],
        idle_watts: float,
        active_runs: Callable[[], int],
        own_seconds: Callable[[], float] = own_cpu_seconds,
        busy_seconds: Callable[[], float] = busy_cpu_seconds,
    ) -> None:
        if not files:
            raise ValueError("there is no RAPL counter to read")
        self.idle_watts = idle_watts
        self.constants: Mapping[str, float | str] = {
            "source": "RAPL",
            "packages": len(files),
            "idle_watts": idle_watts,
        }
        self._own, self._busy, self._active = own_seconds, busy_seconds, active_runs
        self._ranges = dict(files)
        self._last = {path: _read_integer(path) for path in files}
        self._microjoules = 0

    def sample(self) -> Sample:
        """Read all packages."""
        seconds = time.monotonic()
        for path, largest in self._ranges.items():
            now = _read_integer(path)
            self._microjoules += since(self._last[path], now, largest)
            self._last[path] = now
        return Sample(self._microjoules / 1e6, self._own(), self._busy(), self._active(), seconds)


def since(before: int, now: int, largest: int) -> int:
    """How far a counter went that starts again at 0 after ``largest``."""
    return now - before if now >= before else largest - before + now + 1


def rapl_files(powercap: Path = POWERCAP) -> dict[Path, int]:
    """Counters of the processor packages that may be read, each package once; empty where there are none."""
    found: dict[str, tuple[Path, int]] = {}
    for name_file in sorted(powercap.glob("intel-rapl*:*/name")):
        counter, largest = name_file.parent / "energy_uj", name_file.parent / "max_energy_range_uj"
        try:
            name = name_file.read_text(encoding="ascii").strip()
            if name.startswith("package"):
                _read_integer(counter)
                found.setdefault(name, (counter, _read_integer(largest)))
        except OSError as error:
            log.debug("cannot read %s: %s", counter, error)
    return dict(found.values())


def _read_integer(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


class ProcessorModel:
    """A processor without sensor: idle watts always, and a constant for each busy core.

    The dynamic energy of a run is ``watts_per_core`` times its own processor seconds, so that it does not
    depend on what else the machine does.

    Args:
        watts_per_core: What a busy core draws beyond idle.
        clock: Seconds, never going back.
    """

    name = "processor"
    method: Method = "estimated"

    def __init__(
        self,
        watts_per_core: float,
        idle_watts: float,
        active_runs: Callable[[], int],
        own_seconds: Callable[[], float] = own_cpu_seconds,
        clock: Callable[[], float] = time.monotonic,
        constants: Mapping[str, float | str] | None = None,
    ) -> None:
        self.idle_watts = idle_watts
        self.watts_per_core = watts_per_core
        self.constants: Mapping[str, float | str] = {
            "source": "model",
            "idle_watts": idle_watts,
            "watts_per_core": watts_per_core,
            **(constants or {}),
        }
        self._own, self._active, self._clock = own_seconds, active_runs, clock

    def sample(self) -> Sample:
        """Evaluate the model; only the own use is needed."""
        own, seconds = self._own(), self._clock()
        joules = self.idle_watts * seconds + self.watts_per_core * own
        return Sample(joules, own, own, self._active(), seconds)


@dataclass(frozen=True)
class Processor:
    """Constants of a processor.

    Attributes:
        tdp_watts: Thermal design power of all its packages.
        idle_watts: What it draws when nothing runs.
        cores: Logical cores.
        source: Where ``tdp_watts`` is from.
    """

    tdp_watts: float
    idle_watts: float
    cores: int
    source: str

    def __post_init__(self) -> None:
        if not 0 <= self.idle_watts < self.tdp_watts:
            raise ValueError(
                "idle_watts must be at least 0 and below tdp_watts, "
                f"got {self.idle_watts} W and {self.tdp_watts} W"
            )
        if self.cores < 1:
            raise ValueError(f"cores must be at least 1, got {self.cores}")

    @property
    def watts_per_core(self) -> float:
        """What a busy core draws beyond idle."""
        return (self.tdp_watts - self.idle_watts) / self.cores


def processor(
    tdp_watts: float | None = None, idle_watts: float | None = None, cores: int | None = None
) -> Processor:
    """Constants of this machine's processor; what is given goes before what is looked up.

    The thermal design power is looked up by model in CodeCarbon's table. On a virtual machine, which has a
    slice of a processor that it does not see, and for an unknown model it is CodeCarbon's 4 W for each core.
    """
    cores = cores or psutil.cpu_count(logical=True) or 1
    source = "given by the user"
    if tdp_watts is None:
        tdp_watts, source = _look_up_tdp(cores)
    if idle_watts is None:
        idle_watts = IDLE_SHARE_OF_TDP * tdp_watts
    return Processor(float(tdp_watts), float(idle_watts), cores, source)


def _look_up_tdp(cores: int) -> tuple[float, str]:
    from codecarbon.core.cpu import DEFAULT_POWER_PER_CORE, TDP  # brings in pandas

    generic = float(DEFAULT_POWER_PER_CORE) * cores
    if is_virtual():
        return generic, f"virtual machine: {DEFAULT_POWER_PER_CORE} W for each of {cores} cores"
    found = _quietly(TDP)
    if found is None or not found.tdp:
        return generic, f"unknown model: {DEFAULT_POWER_PER_CORE} W for each of {cores} cores"
    return float(found.tdp), f"CodeCarbon's table for {found.model}"


def _quietly(make: Callable[[], Any]) -> Any:
    """What ``make`` gives; None if it fails. CodeCarbon warns about what we say ourselves."""
    logger = logging.getLogger("codecarbon")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return make()
    except Exception as error:
        log.debug("no thermal design power: %s", error)
        return None
    finally:
        logger.setLevel(level)


def is_virtual(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether a hypervisor is below this system; False where that cannot be told."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("flags") and "hypervisor" in line.split() for line in lines)


class NvidiaGpu:
    """One GPU, read from NVML: its counter of energy, and the time that processes kept it busy.

    Where NVML does not tell the use of each process (in containers, say), the energy is shared equally
    among the runs on the GPU.

    Args:
        nvml: The module ``pynvml``, initialised.
        index: Of the GPU, as NVML counts.
        pids: The processes of this run.
    """

    method: Method = "measured"
    idle_watts = 0.0  # unknown: what nobody uses is shared equally, like idle power

    def __init__(
        self,
        nvml: Any,
        index: int,
        active_runs: Callable[[], int],
        pids: Callable[[], Sequence[int]] = lambda: [os.getpid(), *_descendants(os.getpid())],
    ) -> None:
        self.name = f"gpu {index}"
        self.constants: Mapping[str, float | str] = {"source": "NVML", "idle_watts": 0.0}
        self._nvml, self._active, self._pids = nvml, active_runs, pids
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self._own_seconds = self._busy_seconds = 0.0
        self._seen_microseconds = 0
        self._last: float | None = None

    def sample(self) -> Sample:
        """Read energy and use."""
        millijoules = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        self._add_use()
        return Sample(millijoules / 1e3, self._own_seconds, self._busy_seconds, self._active())

    def _add_use(self) -> None:
        """Integrate the shares of the multiprocessors that NVML sampled since the last call."""
        now = time.monotonic()
        elapsed, self._last = (0.0 if self._last is None else now - self._last), now
        try:
            uses = self._nvml.nvmlDeviceGetProcessUtilization(self._handle, self._seen_microseconds)
        except self._nvml.NVMLError:
            return  # no process used it, or this driver does not tell
        pids = set(self._pids())
        for use in uses:
            self._seen_microseconds = max(self._seen_microseconds, use.timeStamp)
            self._busy_seconds += elapsed * use.smUtil / 100
            self._own_seconds += elapsed * use.smUtil / 100 if use.pid in pids else 0.0


def visible_gpus(count: int, visible: str | None) -> list[int]:
    """Which of ``count`` GPUs a process may use, by the value of ``CUDA_VISIBLE_DEVICES``.

    GPUs that are named by identifier instead of index cannot be told here: then it is all of them.
    """
    if visible is None:
        return list(range(count))
    entries = [entry.strip() for entry in visible.split(",") if entry.strip()]
    if not all(entry.lstrip("-").isdigit() for entry in entries):
        return list(range(count))
    indices: list[int] = []
    for entry in entries:
        if not 0 <= int(entry) < count:
            break  # CUDA ignores what follows an index that does not exist
        indices.append(int(entry))
    return indices


def nvidia_gpus(active_runs: Callable[[int], Callable[[], int]]) -> list[NvidiaGpu]:
    """The GPUs that have an energy counter; empty without NVML. ``active_runs`` is asked with each index."""
    try:
        import pynvml  # optional

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except Exception as error:
        log.debug("no NVML: %s", error)
        return []
    gpus = []
    for index in visible_gpus(count, os.environ.get("CUDA_VISIBLE_DEVICES")):
        try:
            gpu = NvidiaGpu(pynvml, index, active_runs(index))
            gpu.sample()
        except pynvml.NVMLError as error:
            log.debug("GPU %d has no energy counter: %s", index, error)
            continue
        gpus.append(gpu)
    return gpus
