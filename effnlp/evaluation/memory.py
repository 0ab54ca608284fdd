"""Peak memory of a stage: resident memory of the process, and allocated memory of the GPU.

Linux keeps a high-water mark of resident memory that can be set back; elsewhere, and where that is not
permitted, a thread samples. Memory of child processes is not included.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil
import torch

log = logging.getLogger(__name__)

SAMPLING_SECONDS = 0.02

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")

_open: "list[PeakMemory]" = []
_lock = threading.RLock()


@dataclass(frozen=True)
class MemoryPeak:
    """Highest memory in use during a stage.

    Attributes:
        process_bytes: Resident memory of the process.
        gpu_bytes: Memory that PyTorch allocated on all CUDA devices together; None without CUDA.
        is_sampled: The peak of the process was sampled and may have been missed between two samples.
    """

    process_bytes: int
    gpu_bytes: int | None
    is_sampled: bool


def high_water_bytes() -> int | None:
    """Highest resident memory since the mark was last set back; None where the system keeps no such mark."""
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def reset_high_water() -> bool:
    """Set the mark back to what is resident now; False where that is not possible."""
    try:
        with _CLEAR.open("w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return high_water_bytes() is not None


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return psutil.Process().memory_info().rss


def _cuda_peak_bytes() -> int | None:
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))


def _reset_cuda_peaks() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


class PeakMemory:
    """Measures the peak inside ``with PeakMemory() as peak:``; ``peak.result`` is there afterwards.

    Blocks nest: setting the mark back for an inner one does not lose the peak of an outer one.

    Args:
        use_high_water: Use the mark of the operating system where there is one; else always sample.
    """

    def __init__(self, use_high_water: bool = True) -> None:
        self.result: MemoryPeak | None = None
        self._use_high_water = use_high_water
        self._process_bytes = 0
        self._gpu_bytes: int | None = None
        self._counts = True
        self._stop: threading.Event | None = None
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> "PeakMemory":
        with _lock:
            _note_peaks()
            _open.append(self)
            can_reset = self._use_high_water and reset_high_water()
            _reset_cuda_peaks()
        self._process_bytes = resident_bytes()
        if not can_reset:
            self._stop = threading.Event()
            self._sampler = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
            self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_sampled = self._stop is not None
        if self._stop is not None and self._sampler is not None:
            self._stop.set()
            self._sampler.join()
        with _lock:
            _note_peaks()
            _open.remove(self)
        self.result = MemoryPeak(self._process_bytes, self._gpu_bytes, is_sampled)

    def peak_so_far(self) -> MemoryPeak:
        """The peak from the start of the block until now."""
        with _lock:
            _note_peaks()
        return MemoryPeak(self._process_bytes, self._gpu_bytes, self._stop is not None)

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """What is used inside does not count."""
        with _lock:
            _note_peaks()
            _open.remove(self)
        self._counts = False
        try:
            yield
        finally:
            with _lock:
                _note_peaks()
                reset_high_water()
                _reset_cuda_peaks()
                _open.append(self)
            self._counts = True

    def note(self, process_bytes: int | None, gpu_bytes: int | None) -> None:
        """Take the current marks into account."""
        if process_bytes is not None and self._stop is None:
            self._process_bytes = max(self._process_bytes, process_bytes)
        if gpu_bytes is not None:
            self._gpu_bytes = max(self._gpu_bytes or 0, gpu_bytes)

    def _sample(self) -> None:
        assert self._stop is not None
        is_last = False
        while True:
            if self._counts:
                self._process_bytes = max(self._process_bytes, resident_bytes())
            if is_last:
                return
            is_last = self._stop.wait(SAMPLING_SECONDS)


def _note_peaks() -> None:
    """Before a mark is set back, every open block takes note of it."""
    process_bytes, gpu_bytes = high_water_bytes(), _cuda_peak_bytes()
    for block in _open:
        block.note(process_bytes, gpu_bytes)
