"""On what and in which precision a run computes."""

from dataclasses import dataclass

DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class Hardware:
    """Settings that Lightning and torch are given.

    Attributes:
        precision: Lightning's name of it, ``32-true`` or ``bf16-mixed``.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``gpu``.
        threads: CPU threads of one operator; None leaves torch's choice.
    """

    precision: str
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ValueError(f"hardware.device must be one of {', '.join(DEVICES)}, got {self.device!r}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"hardware.threads must be at least 1 or null, got {self.threads}")

    def torch_device(self) -> str:
        """``cuda`` or ``cpu``.

        Raises:
            ValueError: If a GPU is asked for and torch sees none.
        """
        import torch

        there = torch.cuda.is_available()
        if self.device == "gpu" and not there:
            raise ValueError("hardware.device=gpu, but torch sees no GPU here; hardware.device=cpu works")
        return "cuda" if there and self.device != "cpu" else "cpu"
