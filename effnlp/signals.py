"""What a signal from outside means to a run or a sweep."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def term_is_interrupt() -> Iterator[None]:
    """SIGTERM ends what runs inside as Ctrl-C does: with word of it, and resumable.

    The first one does; what follows while it ends is not heard.
    """

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: whoever started the thread handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
