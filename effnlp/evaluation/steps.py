"""The gauge of single steps: FLOPs into the run's meter, and a pause where another process measures."""

from effnlp.data.encodings import Batch
from effnlp.evaluation.flops import StepFlops, batch_key
from effnlp.evaluation.meter import Meter
from effnlp.evaluation.quiet import QuietLock


class MeterGauge:
    """Counts steps into the open stage of a meter.

    Args:
        meter: The run's.
        quiet: The run's part in the quiet of the machine.
        data_dependent: Whether FLOPs depend on what is in a batch, not only on its shape.
        varying: Beginnings of the phases in which they do so in any case.
    """

    def __init__(
        self, meter: Meter, quiet: QuietLock, data_dependent: bool = False, varying: tuple[str, ...] = ()
    ) -> None:
        self.meter, self.quiet, self.varying = meter, quiet, varying
        self.steps = StepFlops(data_dependent)
        self.is_open = False

    def start_step(self, batch: Batch, phase: str) -> None:
        """Before a step; ``phase`` names what it does with a batch of this shape."""
        self.steps.start(None if phase.startswith(self.varying) else batch_key(batch, phase))
        self.is_open = True

    def end_step(self) -> None:
        """After it."""
        if self.is_open:
            self.meter.add_flops(self.steps.end())
            self.is_open = False

    def abort_step(self) -> None:
        """The step failed."""
        self.steps.abort()
        self.is_open = False

    def let_others_measure(self) -> None:
        """Between steps; the lock pauses the meter while it waits."""
        self.quiet.yield_point()
