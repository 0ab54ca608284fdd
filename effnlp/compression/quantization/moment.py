"""When a method that rounds weights alone may act: on the frozen base of a PEFT method, or on the trained model."""

MOMENTS = ("prepare", "finish")


def check_moment(moment: str) -> str:
    """``moment``, if it is one of :data:`MOMENTS`."""
    if moment not in MOMENTS:
        raise ValueError(f"moment must be one of {', '.join(MOMENTS)}, got {moment!r}")
    return moment
