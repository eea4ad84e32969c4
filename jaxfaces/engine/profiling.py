"""A trace of a few steps for TensorBoard or Perfetto."""

from pathlib import Path
from types import TracebackType

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tracing:  # the run ended within the trace
            jax.profiler.stop_trace()

    def after(self, step: int, token: jax.Array) -> None:
        """Begins or ends the trace after `step` steps; `token` is the last step's."""
        if step == self._start:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True
        elif self._tracing and step == self._stop:
            token.block_until_ready()
            jax.profiler.stop_trace()
            self._tracing = False
