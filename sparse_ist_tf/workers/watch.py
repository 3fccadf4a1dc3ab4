"""Ends collectives that not all workers have joined, without a thread for each."""

import contextlib
import threading
import time
from collections.abc import Iterator

import tensorflow as tf


class Watch:
    """One thread that looks how long this process has been waiting.

    A peer that dies or falls silent is found by TensorFlow's coordination service; this is for
    workers that are well and wait for different things. TensorFlow's own timeout of a collective
    leaves two sleeping threads at each call.

    Args:
        timeout_s: seconds; 0 for no end.
    """

    def __init__(self, timeout_s: float):
        self.timeout_s = timeout_s
        self._since: float | None = None
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, this process waits for others; not to be nested."""
        if self.timeout_s and self._thread is None:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def _look(self):
        from tensorflow.python.eager import context

        while True:
            time.sleep(min(5.0, self.timeout_s / 10))
            since = self._since
            if since is not None and time.monotonic() - since > self.timeout_s:
                said = f"not all workers joined a collective within {self.timeout_s:g} s"
                context.context().abort_collective_ops(tf.errors.DEADLINE_EXCEEDED, said)
                return
