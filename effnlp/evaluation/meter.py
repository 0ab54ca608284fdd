"""The meter of a run: what each of its stages cost, read from outside of the stage.

A stage may be entered several times; its amounts add up, its peaks are maxima. What the run spent before an
interruption is carried over by :meth:`Meter.state`.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from effnlp.evaluation.carbon import CarbonIntensity, carbon_intensity
from effnlp.evaluation.energy import EnergyMeter, Mark, machine_energy
from effnlp.evaluation.flops import FlopCount, FlopCounter
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.memory import MemoryPeak, PeakMemory
from effnlp.evaluation.power import own_cpu_seconds

STAGES = ("data", "pretraining", "finetuning", "compression", "evaluation")

SUMMED = ("seconds", "cpu_seconds", "flops", "energy_joules", "co2e_grams", "waiting_seconds")
PEAKS = ("peak_memory_bytes", "peak_gpu_memory_bytes")

NOT_COUNTED = "no FLOPs were counted in this stage"
NO_GPU = "no CUDA device was used"


@dataclass(frozen=True)
class StageCost:
    """What a stage cost. Raw amounts; None where not measured, with the reason in ``reasons``.

    Attributes:
        seconds: Wall time, without waiting.
        cpu_seconds: Processor time of the process and its children.
        flops: None where nothing was counted or an operator has no formula.
        uncounted: Operators without a formula: name to calls.
        peak_memory_bytes: Highest resident memory of the process.
        peak_gpu_memory_bytes: Highest memory allocated on CUDA devices.
        energy_joules: What the run was charged for.
        co2e_grams: Of that energy.
        waiting_seconds: Spent waiting for other runs: not in ``seconds``, and no energy is charged.
        reasons: For each figure that is None, why.
    """

    seconds: float
    cpu_seconds: float
    flops: float | None
    peak_memory_bytes: int | None
    peak_gpu_memory_bytes: int | None
    energy_joules: float | None
    co2e_grams: float | None
    waiting_seconds: float
    uncounted: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def measured(self) -> Measured:
        """The figures by name, with the reasons of those that are missing."""
        return Measured.of({key: getattr(self, key) for key in (*SUMMED, *PEAKS)}, self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "StageCost":
        """What :meth:`to_dict` wrote."""
        names = {entry.name for entry in fields(cls)}
        unknown = sorted(set(content) - names)
        if unknown:
            raise ValueError(f"unknown figures of a stage: {', '.join(unknown)}")
        return cls(**content)


def total_cost(costs: Mapping[str, StageCost]) -> StageCost:
    """Sums over the stages; peaks are maxima. What one stage lacks, the total lacks."""
    reasons: dict[str, str] = {}
    sums: dict[str, float | None] = {}
    for key in SUMMED:
        lacking = [stage for stage, cost in costs.items() if getattr(cost, key) is None]
        if lacking:
            sums[key] = None
            reasons[key] = "; ".join(
                f"{stage}: {costs[stage].reasons.get(key, 'not measured')}" for stage in lacking
            )
        else:
            sums[key] = sum(getattr(cost, key) for cost in costs.values())
    peaks: dict[str, int | None] = {}
    for key in PEAKS:
        known = [getattr(cost, key) for cost in costs.values() if getattr(cost, key) is not None]
        peaks[key] = max(known) if known else None
        if not known:
            reasons[key] = next((cost.reasons.get(key, "") for cost in costs.values()), "no stage ran")
    uncounted: dict[str, int] = {}
    for cost in costs.values():
        for name, calls in cost.uncounted.items():
            uncounted[name] = uncounted.get(name, 0) + calls
    return StageCost(
        seconds=sums["seconds"] or 0.0,
        cpu_seconds=sums["cpu_seconds"] or 0.0,
        flops=sums["flops"],
        peak_memory_bytes=peaks["peak_memory_bytes"],
        peak_gpu_memory_bytes=peaks["peak_gpu_memory_bytes"],
        energy_joules=sums["energy_joules"],
        co2e_grams=sums["co2e_grams"],
        waiting_seconds=sums["waiting_seconds"] or 0.0,
        uncounted=uncounted,
        reasons=reasons,
    )


def cost_values(costs: Mapping[str, StageCost], kind: Literal["own", "amortised"]) -> Measured:
    """``cost/<stage>/<kind>/<figure>`` for each stage and the total."""
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    for stage, cost in {**costs, "total": total_cost(costs)}.items():
        measured = cost.measured().under(f"cost/{stage}/{kind}")
        values.update(measured.values)
        absent.update(measured.absent)
    return Measured(values, absent)


@dataclass
class _Account:
    """What a stage has spent so far."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    joules: float = 0.0
    waiting_seconds: float = 0.0
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    by_operator: dict[str, float] = field(default_factory=dict)
    uncounted: dict[str, int] = field(default_factory=dict)
    is_counted: bool = False
    energy_reason: str | None = None
    energy_methods: list[str] = field(default_factory=list)

    def add_flops(self, count: FlopCount) -> None:
        total = FlopCount(self.by_operator, self.uncounted) + count
        self.by_operator, self.uncounted = dict(total.by_operator), dict(total.uncounted)
        self.is_counted = True

    def add(self, other: "_Account") -> None:
        """What another part of the same stage has spent."""
        self.seconds += other.seconds
        self.cpu_seconds += other.cpu_seconds
        self.joules += other.joules
        self.waiting_seconds += other.waiting_seconds
        for name in ("peak_memory_bytes", "peak_gpu_memory_bytes"):
            known = [peak for peak in (getattr(self, name), getattr(other, name)) if peak is not None]
            setattr(self, name, max(known, default=None))
        if other.is_counted:
            self.add_flops(FlopCount(other.by_operator, other.uncounted))
        self.energy_reason = self.energy_reason or other.energy_reason
        self.energy_methods += [m for m in other.energy_methods if m not in self.energy_methods]

    def add_peak(self, peak: MemoryPeak) -> None:
        self.peak_memory_bytes = max(self.peak_memory_bytes or 0, peak.process_bytes)
        if peak.gpu_bytes is not None:
            self.peak_gpu_memory_bytes = max(self.peak_gpu_memory_bytes or 0, peak.gpu_bytes)


@dataclass
class _Open:
    """The stage that is running, and the readings since which it has not been charged."""

    stage: str
    memory: PeakMemory
    seconds: float
    cpu_seconds: float
    energy: Mark
    waited_seconds: float = 0.0


class Meter:
    """Charges the stages of one run.

    Args:
        energy: The meter of the machine; started with the first stage.
        carbon: How joules become grams.
        clock: Wall time in seconds, never going back.
        cpu_seconds: Processor time of this run so far.
    """

    def __init__(
        self,
        energy: EnergyMeter,
        carbon: CarbonIntensity,
        clock: Callable[[], float] = time.perf_counter,
        cpu_seconds: Callable[[], float] = own_cpu_seconds,
    ) -> None:
        self.energy = energy
        self.carbon = carbon
        self._clock = clock
        self._cpu_seconds = cpu_seconds
        self._accounts: dict[str, _Account] = {}
        self._open: _Open | None = None
        self._lock = threading.RLock()

    @contextmanager
    def stage(self, name: str, count_flops: bool = False) -> Iterator[None]:
        """Charge what runs inside to the stage ``name``. Stages do not nest.

        Args:
            name: One of ``STAGES``.
            count_flops: Watch every operator inside, which slows down work with many of them. For stages
                that are short or have no step to count (data, compression); else use :meth:`add_flops`.

        Raises:
            ValueError: If there is no such stage.
            RuntimeError: If a stage is open already: work would be charged twice.
        """
        if name not in STAGES:
            raise ValueError(f"unknown stage {name!r}: stages are {', '.join(STAGES)}")
        if self._open is not None:
            raise RuntimeError(f"stage {name!r} inside stage {self._open.stage!r}: stages do not nest")
        account = self._accounts.setdefault(name, _Account())
        self.energy.start()
        with PeakMemory() as memory:
            self._open = _Open(name, memory, self._clock(), self._cpu_seconds(), self.energy.mark())
            counter = FlopCounter() if count_flops else None
            try:
                with counter or nullcontext():
                    yield
            finally:
                with self._lock:
                    self._charge()
                    self._open = None
                if counter is not None:
                    account.add_flops(counter.count)

    @contextmanager
    def aside(self, name: str, count_flops: bool = False) -> Iterator[None]:
        """Charge what runs inside to the stage ``name`` instead of the open one, which then goes on.

        Args:
            name, count_flops: As in :meth:`stage`. The open stage must not watch operators itself: it would
                count those inside, too.

        Raises:
            RuntimeError: If no stage is open.
        """
        self._account()
        outer = self._open
        assert outer is not None
        with self._lock:
            self._charge()
            self._open = None
        try:
            with outer.memory.set_aside(), self.stage(name, count_flops):
                yield
        finally:
            with self._lock:
                outer.seconds, outer.cpu_seconds = self._clock(), self._cpu_seconds()
                outer.energy = self.energy.mark()
                self._open = outer

    def add_flops(self, count: FlopCount) -> None:
        """Charge FLOPs to the stage that is open."""
        self._account().add_flops(count)

    def waiting(self, seconds: float) -> None:
        """Of the time in the open stage, this much was spent waiting for other runs."""
        if seconds < 0:
            raise ValueError(f"seconds must not be negative, got {seconds}")
        self._account()
        assert self._open is not None
        self._open.waited_seconds += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """This run waits for others: reported apart, and neither time nor energy is charged.

        It is what :class:`~effnlp.evaluation.quiet.QuietLock` takes as ``around_wait``.
        """
        start = self._clock()
        with self.energy.paused():
            yield
        if self._open is not None:
            self.waiting(self._clock() - start)

    def stop(self) -> None:
        """End the sampling of energy; a later stage starts it again."""
        self.energy.stop()

    def costs(self) -> dict[str, StageCost]:
        """What each stage that ran has cost until now, in the order of ``STAGES``."""
        with self._lock:
            self._charge()
        return {stage: self._cost(self._accounts[stage]) for stage in STAGES if stage in self._accounts}

    @property
    def total(self) -> StageCost:
        """All stages together."""
        return total_cost(self.costs())

    def as_values(self, kind: Literal["own", "amortised"] = "own") -> Measured:
        """``cost/<stage>/own/seconds`` and so on, stages and total, with the reasons of what is missing."""
        return cost_values(self.costs(), kind)

    def conditions(self) -> dict[str, float | str | bool]:
        """What a reader must know to judge the figures: method and constants of energy and carbon."""
        return {
            "energy/method": self.energy.method or "none",
            **{f"energy/{key}": value for key, value in self.energy.constants.items()},
            "carbon/grams_per_kilowatt_hour": self.carbon.grams_per_kilowatt_hour,
            "carbon/source": self.carbon.source,
            "carbon/is_default": self.carbon.is_default,
        }

    def state(self) -> dict[str, Any]:
        """What was spent until now, the open stage included; for JSON."""
        with self._lock:
            self._charge()
        return {stage: asdict(account) for stage, account in self._accounts.items()}

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what an interrupted run had spent.

        Raises:
            RuntimeError: If a stage is open.
            ValueError: If the state names a stage that there is not.
        """
        if self._open is not None:
            raise RuntimeError(f"load_state() inside stage {self._open.stage!r}: load between stages")
        unknown = sorted(set(state) - set(STAGES))
        if unknown:
            raise ValueError(f"unknown stages {', '.join(unknown)}: stages are {', '.join(STAGES)}")
        for stage, account in state.items():
            self._accounts.setdefault(stage, _Account()).add(_Account(**account))

    def _account(self) -> _Account:
        if self._open is None:
            raise RuntimeError("no stage is open: enter one with Meter.stage()")
        return self._accounts[self._open.stage]

    def _charge(self) -> None:
        """Book what the open stage has spent since it was last charged."""
        now = self._open
        if now is None:
            return
        account = self._accounts[now.stage]
        seconds, cpu_seconds, energy = self._clock(), self._cpu_seconds(), self.energy.mark()
        account.seconds += max(seconds - now.seconds - now.waited_seconds, 0.0)
        account.cpu_seconds += max(cpu_seconds - now.cpu_seconds, 0.0)
        account.waiting_seconds += now.waited_seconds
        reading = self.energy.between(now.energy, energy)
        if reading.joules is None:
            account.energy_reason = reading.reason
        else:
            account.joules += reading.joules
            if reading.method not in account.energy_methods:
                account.energy_methods.append(str(reading.method))
        account.add_peak(now.memory.peak_so_far())
        now.seconds, now.cpu_seconds, now.energy, now.waited_seconds = seconds, cpu_seconds, energy, 0.0

    def _cost(self, account: _Account) -> StageCost:
        count = FlopCount(account.by_operator, account.uncounted)
        reasons = {"peak_gpu_memory_bytes": NO_GPU}
        reasons["flops"] = count.reason or NOT_COUNTED
        methods = {method for other in self._accounts.values() for method in other.energy_methods}
        energy_reason = account.energy_reason
        if energy_reason is None and len(methods) > 1:
            energy_reason = "measured in one part of the run and estimated in another"
        joules = account.joules if energy_reason is None else None
        reasons["energy_joules"] = reasons["co2e_grams"] = energy_reason or ""
        cost = StageCost(
            seconds=account.seconds,
            cpu_seconds=account.cpu_seconds,
            flops=count.flops if account.is_counted else None,
            peak_memory_bytes=account.peak_memory_bytes,
            peak_gpu_memory_bytes=account.peak_gpu_memory_bytes,
            energy_joules=joules,
            co2e_grams=None if joules is None else self.carbon.grams(joules),
            waiting_seconds=account.waiting_seconds,
            uncounted=count.uncounted,
        )
        missing = {key: reason for key, reason in reasons.items() if getattr(cost, key) is None}
        return StageCost(**{**vars(cost), "reasons": missing})


def machine_meter(
    country: str | None = None,
    carbon_intensity_g_per_kwh: float | None = None,
    tdp_watts: float | None = None,
    idle_watts: float | None = None,
    cores: int | None = None,
    period_seconds: float = 1.0,
) -> Meter:
    """A meter with what this machine has.

    Args:
        country: ISO 3166 code of three letters, for the carbon intensity; the world average by default.
        carbon_intensity_g_per_kwh: Instead of a country.
        tdp_watts, idle_watts, cores: Constants of the processor where it has no sensor
            (:func:`effnlp.evaluation.power.processor`).
        period_seconds: Between two samples of power.
    """
    carbon = carbon_intensity(country, carbon_intensity_g_per_kwh)
    return Meter(machine_energy(tdp_watts, idle_watts, cores, period_seconds), carbon)
