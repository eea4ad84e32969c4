"""A trace of a few steps for TensorBoard or Perfetto."""

from pathlib import Path

import jax


class Profiler:
    """Traces COUNT steps from START of a run; use as a context.

    Args:
      request: "START:COUNT", or "" to do nothing.
      folder: where the trace goes.
    """

    def __init__(self, request: str, folder: Path):
        start, _, count = request.partition(":")
        self._start = int(start) if request else -1
        self._stop = self._start + int(count) if request else -1
        self._folder = folder
        self._tracing = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracing:  # the run ended within the trace
            jax.profiler.stop_trace()

    def before(self, step: int) -> None:
        """Begins the trace if step number `step`, from 0, is its first."""
        if not self._tracing and self._start <= step < self._stop:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True

    def after(self, step: int, token: jax.Array) -> None:
        """Ends the trace if `step` steps are done; `token` is the last one's."""
        if self._tracing and step >= self._stop:
            token.block_until_ready()
            jax.profiler.stop_trace()
            self._tracing = False
