"""Energy: one machine, split among its runs by the processor and device time that each of them used.

A domain's energy over an interval has an idle part, what it would have drawn anyway, and a dynamic part.
The dynamic part is charged by use; the idle part is shared equally by the runs that are active, so that all
together are charged for it once. Readings from sensors are ``measured``, those from a model of the processor
``estimated``; they never share an axis. A sensor that fails leaves a reason, never a zero.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch

from effnlp.evaluation.power import (
    Domain,
    Method,
    ProcessorModel,
    RaplPackages,
    Sample,
    nvidia_gpus,
    processor,
    rapl_files,
)
from effnlp.evaluation.presence import Presence, lock_folder

log = logging.getLogger(__name__)

SAMPLING_SECONDS = 1.0


@dataclass(frozen=True)
class EnergyReading:
    """Energy that this run is charged for.

    Attributes:
        joules: None where it is not known, with the ``reason``.
        method: Whether a sensor was read or a model evaluated; None without joules.
        reason: Why there is no figure; None where there is one.
        constants: What was read or assumed, by domain: "processor/idle_watts" and so on.
        idle_joules: The part of ``joules`` that is this run's share of what the machine draws when nobody uses
            it; None where that is not known of all domains.
    """

    joules: float | None
    method: Method | None
    reason: str | None = None
    constants: Mapping[str, float | str] = field(default_factory=dict)
    idle_joules: float | None = None

    @property
    def above_idle_joules(self) -> float | None:
        """What is charged beyond the share of the idle power; None where that is not known."""
        if self.joules is None or self.idle_joules is None:
            return None
        return max(self.joules - self.idle_joules, 0.0)


def idle_share(before: Sample, after: Sample, seconds: float, idle_watts: float) -> float:
    """The part of :func:`share` that is idle power."""
    if after.active_runs == 0:
        return 0.0
    joules = max(after.joules - before.joules, 0.0)
    return min(idle_watts * seconds, joules) / after.active_runs


def share(before: Sample, after: Sample, seconds: float, idle_watts: float) -> float:
    """Joules of a domain that one run is charged for, between two samples ``seconds`` apart.

    The idle part is ``idle_watts * seconds`` (at most all there is), one part for each active run; of the
    rest the run has the fraction of the use that was its own. Where nobody used the domain, the rest is
    shared like the idle part.
    """
    if after.active_runs == 0:
        return 0.0
    joules = max(after.joules - before.joules, 0.0)
    own = max(after.own_seconds - before.own_seconds, 0.0)
    # Clocks of different resolution: the use of one run may seem to exceed that of all.
    busy = max(after.busy_seconds - before.busy_seconds, own)
    dynamic = joules - min(idle_watts * seconds, joules)
    used = dynamic * own / busy if busy > 0 else dynamic / after.active_runs
    return idle_share(before, after, seconds, idle_watts) + used


@dataclass(frozen=True)
class Mark:
    """How far a meter had counted at one moment; two marks enclose what lies between.

    Attributes:
        joules: Charged since the meter started.
        gaps: Intervals that could not be read since the meter started.
        reason: Why the last of them could not be read.
        idle_joules: Of ``joules``, the share of the idle power.
    """

    joules: float
    gaps: int
    reason: str | None
    idle_joules: float = 0.0


class Joules(Protocol):
    """What an energy is read from: this process's meter, or that of the process which started this one."""

    def mark(self) -> Mark:
        """How far it has counted now."""
        ...

    def between(self, start: Mark, end: Mark) -> EnergyReading:
        """What was charged between two marks."""
        ...


class EnergyMeter:
    """Integrates what this run is charged for, from :meth:`start` to :meth:`stop`.

    A thread samples every ``period_seconds``, so that short counters do not wrap unseen and the number of
    active runs is right; marks take a sample of their own. While paused (the run waits for others) nothing
    is charged.

    Args:
        domains: What draws power.
        presence: Where active runs are counted; this run enters and leaves it.
        device_presences: The same for single devices; domains enter them, the meter leaves them.
        period_seconds: Between two samples.
        clock: Seconds, never going back.
        reason: Why there are no domains, if there are none.
    """

    def __init__(
        self,
        domains: Sequence[Domain],
        presence: Presence | None = None,
        device_presences: Sequence[Presence] = (),
        period_seconds: float = SAMPLING_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        reason: str = "this machine has no power to read",
    ) -> None:
        if period_seconds <= 0:
            raise ValueError(f"period_seconds must be positive, got {period_seconds}")
        self._domains = list(domains)
        self._presence = presence
        self._device_presences = device_presences
        self._period_seconds = period_seconds
        self._clock = clock
        self._no_domain_reason = reason
        self._lock = threading.RLock()
        self._joules, self._gaps, self._reason = 0.0, 0, None if domains else reason
        self._idle_joules = 0.0
        self._last: list[Sample] | None = None
        self._is_running = False
        self._pauses = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def method(self) -> Method | None:
        """``measured`` if every domain is read from a sensor, else ``estimated``; None without domains."""
        if not self._domains:
            return None
        is_measured = all(domain.method == "measured" for domain in self._domains)
        return "measured" if is_measured else "estimated"

    @property
    def constants(self) -> dict[str, float | str]:
        """What was read or assumed, by domain."""
        return {
            f"{domain.name}/{key}": value
            for domain in self._domains
            for key, value in domain.constants.items()
        }

    def start(self) -> None:
        """Begin; twice is as once."""
        with self._lock:
            if self._is_running:
                return
            self._enter()
            self._is_running = True
            self._begin_interval()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling, name="energy-meter", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end; twice is as once. The meter may be started again."""
        with self._lock:
            if not self._is_running:
                return
            if self._pauses == 0:
                self._end_interval()
            self._last, self._is_running = None, False
            self._leave()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Not charged and not counted among the active runs: this run waits for others."""
        with self._lock:
            self._pauses += 1
            if self._is_running and self._pauses == 1:
                self._end_interval()
                self._last = None
                self._leave()
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                if self._is_running and self._pauses == 0:
                    self._enter()
                    self._begin_interval()

    def mark(self) -> Mark:
        """How far the meter has counted now."""
        with self._lock:
            if self._is_running and self._pauses == 0:
                self._end_interval()
                self._begin_interval()
            return Mark(self._joules, self._gaps, self._reason, self._idle_joules)

    def between(self, start: Mark, end: Mark) -> EnergyReading:
        """What was charged between two marks."""
        if not self._domains:
            return EnergyReading(None, None, self._no_domain_reason)
        if end.gaps > start.gaps:
            return EnergyReading(None, None, end.reason, self.constants)
        # Of a domain whose idle power is not known, what nobody uses cannot be told from what is used.
        is_known = all(domain.idle_watts > 0 for domain in self._domains)
        idle = end.idle_joules - start.idle_joules if is_known else None
        return EnergyReading(end.joules - start.joules, self.method, None, self.constants, idle)

    def _keep_sampling(self) -> None:
        while not self._stop.wait(self._period_seconds):
            self.mark()

    def _begin_interval(self) -> None:
        if self._last is None:
            self._last = self._sample()

    def _end_interval(self) -> None:
        """Charge the time since the last sample; the next interval begins with the same reading."""
        last, now = self._last, self._sample()
        self._last = now
        if last is None or now is None:
            self._gaps += 1  # its end or its beginning is not known
            return
        for domain, before, after in zip(self._domains, last, now, strict=True):
            assert before.seconds is not None
            assert after.seconds is not None
            seconds = after.seconds - before.seconds
            self._joules += share(before, after, seconds, domain.idle_watts)
            self._idle_joules += idle_share(before, after, seconds, domain.idle_watts)

    def _sample(self) -> list[Sample] | None:
        """All domains now, each with its time; None, with the reason kept, if one of them cannot be read."""
        try:
            now = self._clock()
            samples = [domain.sample() for domain in self._domains]
            return [
                sample if sample.seconds is not None else replace(sample, seconds=now) for sample in samples
            ]
        except Exception as error:  # whatever a sensor does, the run goes on
            if self._gaps == 0:
                log.warning("the power sensor failed: %s; energy will be absent", error)
            self._reason = f"the power sensor failed: {type(error).__name__}: {error}"
            return None

    def _enter(self) -> None:
        if self._presence is not None:
            try:
                self._presence.enter()
            except OSError as error:
                log.warning(
                    "cannot take part in %s: %s; idle power is not shared", self._presence.folder, error
                )

    def _leave(self) -> None:
        for presence in [*([self._presence] if self._presence else []), *self._device_presences]:
            try:
                presence.leave()
            except OSError as error:
                log.debug("cannot leave %s: %s", presence.folder, error)


def machine_energy(
    tdp_watts: float | None = None,
    idle_watts: float | None = None,
    cores: int | None = None,
    period_seconds: float = SAMPLING_SECONDS,
    folder: Path | None = None,
) -> EnergyMeter:
    """The meter of this machine: sensors where there are any, else the model of the processor.

    Args:
        tdp_watts: Thermal design power of all packages; looked up by default.
        idle_watts: Power of the idle processor; by default a tenth of ``tdp_watts``.
        cores: Logical cores among which the power beyond idle is divided; all by default.
        period_seconds: Between two samples.
        folder: Where the runs of this machine count each other.
    """
    folder = folder or lock_folder()
    presence = Presence(folder / "active")

    def active_runs() -> int:
        return max(presence.count(), 1)

    constants = processor(tdp_watts, idle_watts, cores)
    files = rapl_files()
    cpu: Domain
    if files:
        cpu = RaplPackages(files, constants.idle_watts, active_runs)
    else:
        cpu = ProcessorModel(
            constants.watts_per_core,
            constants.idle_watts,
            active_runs,
            constants={
                "tdp_watts": constants.tdp_watts,
                "tdp_source": constants.source,
                "cores": constants.cores,
            },
        )
    on_gpus: dict[int, Presence] = {}

    def runs_on_gpu(index: int) -> Callable[[], int]:
        """How many runs use the GPU; 0 as long as this one does not."""
        on_gpu = on_gpus.setdefault(index, Presence(folder / f"gpu-{index}"))

        def runs() -> int:
            if not torch.cuda.is_initialized():
                return 0
            on_gpu.enter()
            return on_gpu.count()

        return runs

    return EnergyMeter([cpu, *nvidia_gpus(runs_on_gpu)], presence, list(on_gpus.values()), period_seconds)
