"""Several processes as one run: they meet, speak with one voice and end together."""

import collections
import contextlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# jax has no public way to the key-value store of its own coordinator.
from jax._src import distributed as jax_distributed

from jaxfaces.engine import config, mesh
from jaxfaces.engine.errors import DivergedError, Interrupted, RunError
from jaxfaces.engine.options import Cluster, Options
from jaxfaces.engine.signals import Request

FAILED = "jaxfaces/failed"
GRACE_SECONDS = 60  # jax's own limit lies this much later than ours
LOOK_SECONDS = 1.0  # between two looks whether another process has failed
DAY_MS = 24 * 3600 * 1000

# Steps between a vote and its count: the host never waits for the one just cast.
VOTES = 4

_shared = itertools.count()


@contextlib.contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """Makes this process one of several for as long as the context lasts.

    An error that leaves the context in one process ends all of them: each of the others
    says so in one line and exits with code 1, even out of a collective that waits.

    Args:
      cluster: how to find the others; its defaults mean that there are none.

    Raises:
      RunError: jax already computed something, or the others cannot be reached.
    """
    if not (cluster.distributed or cluster.coordinator):
        yield
        return
    _start(cluster)
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(over,), daemon=True)
    watch.start()
    try:
        with announced():
            yield
    except BaseException as error:
        if breaks_away(type(error)):
            # The others come to this within LOOK_SECONDS; what still waits is let go.
            _leave()
        raise
    finally:
        over.set()
        watch.join()


def breaks_away(kind: type | None) -> bool:
    """Whether an error of this type may be one process's own, where there are several.

    To the other errors all processes come at one step, each by itself.
    """
    together = (Interrupted, DivergedError)
    return (
        kind is not None
        and not issubclass(kind, together)
        and jax_distributed.global_state.num_processes > 1
    )


@contextlib.contextmanager
def announced() -> Iterator[None]:
    """Tells the other processes of an error that leaves the context.

    Inside of whatever waits for the others when it is left, such as checkpoints.
    """
    try:
        yield
    except BaseException as error:
        if breaks_away(type(error)) and _client() is not None:
            line = " ".join(str(error).split()) or type(error).__name__
            _tell(f"{_own_prefix()}{line}")
        raise


def _start(cluster: Cluster) -> None:
    # Its handler of SIGTERM would take the place of the engine's.
    jax.config.update("jax_enable_preemption_service", False)
    if cluster.coordinator:
        where: dict[str, Any] = {
            "coordinator_address": cluster.coordinator,
            "num_processes": cluster.processes,
            "process_id": cluster.process,
            "cluster_detection_method": "deactivate",
        }
    else:
        where = {}
    # jax would end the process by a fault with a stack trace; be earlier, in one line.
    late = threading.Timer(cluster.join_seconds, _give_up, [cluster])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=cluster.join_seconds + GRACE_SECONDS,
            heartbeat_timeout_seconds=cluster.heartbeat_seconds,
            shutdown_timeout_seconds=cluster.heartbeat_seconds,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(_why(error)) from error
    finally:
        late.cancel()


def _give_up(cluster: Cluster) -> None:
    where = f" through {cluster.coordinator}" if cluster.coordinator else ""
    print(
        f"jaxfaces: not all processes met{where} within --join_seconds="
        f"{cluster.join_seconds}. Are all of them started, with the same "
        "--coordinator and --processes, and is its port open?",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "coordinator_address should be defined" in text:
        return (
            "--distributed: nothing here describes the processes of a run (no SLURM, "
            "Open MPI, Kubernetes or TPU pod found); give --coordinator=HOST:PORT, "
            "--processes=N and --process=I"
        )
    if "before any JAX" in text or "only be called once" in text:
        return f"the processes must be joined before jax computes anything: {text}"
    return f"the processes cannot be joined, is the port of --coordinator free? {text}"


def _tell(line: str) -> None:
    """Leaves word for the others; the first word stays."""
    # The coordinator itself may be what failed: the others notice that by themselves.
    with contextlib.suppress(RuntimeError):
        _client().key_value_set(FAILED, line)


def _watch(over: threading.Event) -> None:
    """Ends this process once another has failed; its main thread may be waiting."""
    while not over.wait(LOOK_SECONDS):
        try:
            line = _client().key_value_try_get(FAILED)
        except RuntimeError:
            continue  # nobody has
        if line.startswith(_own_prefix()):
            return  # the error is on its way through the main thread
        print(f"jaxfaces: stopped, {line}", file=sys.stderr, flush=True)
        # The process that failed waits for the others to leave; so do it in order.
        _leave()
        os._exit(1)


def _leave() -> None:
    """Meets the others for the last time.

    The client is closed, not freed: other threads may be waiting inside of it.
    """
    with contextlib.suppress(RuntimeError):
        _client().shutdown()


def _own_prefix() -> str:
    return f"process {jax_distributed.global_state.process_id}: "


def _client() -> Any:
    return jax_distributed.global_state.client


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def share(value: Any) -> Any:
    """What process 0 holds, in every process.

    Args:
      value: what JSON can hold; only that of process 0 matters. All processes must call
        this in the same order.

    Returns:
      The value, lists in place of tuples where there are several processes.
    """
    if jax.process_count() == 1:
        return value
    key = f"jaxfaces/share/{next(_shared)}"
    if is_main():
        _client().key_value_set(key, json.dumps(value))
    return json.loads(_client().blocking_key_value_get(key, DAY_MS))


def compare(what: str, mine: Any) -> None:
    """Makes sure that every process holds the same as process 0.

    Raises:
      RunError: this one does not; `what` says what differs.
    """
    theirs, mine = share(mine), json.loads(json.dumps(mine))
    if json.loads(json.dumps(theirs)) != mine:
        raise RunError(
            f"{what} differ between processes: {theirs} in process 0, {mine} in "
            f"process {jax.process_index()}"
        )


def wait() -> None:
    """Returns once every process has come here."""
    if jax.process_count() > 1:
        _client().wait_at_barrier(f"jaxfaces/wait/{next(_shared)}", DAY_MS)


def total(count: int) -> int:
    """The sum of a number over the processes."""
    if jax.process_count() == 1:
        return count
    from jax.experimental import multihost_utils

    # In two halves: devices count in 32 bits.
    halves = multihost_utils.process_allgather(np.array(divmod(count, 2**31), np.int32))
    return sum(int(high) * 2**31 + int(low) for high, low in halves)


def agreed(task: Any, options: Options) -> Options:
    """The options of process 0, quiet elsewhere.

    Args:
      task: this process's task.
      options: this process's options.

    Raises:
      RunError: a flag that decides the result differs between processes.
    """
    mine = _texts(task) | _texts(options)
    theirs = share(mine)
    if is_main():
        return options
    # Process 0 has settled it by what the run directory holds.
    fixed = [
        k.flag for k in config.knobs(task) + config.knobs(options) if not k.runtime
    ]
    differing = [
        f"--{flag} is {mine[flag]} in process {jax.process_index()}, "
        f"{theirs.get(flag, 'absent')} in process 0"
        for flag in fixed
        if flag != "schedule_steps" and mine[flag] != theirs.get(flag)
    ]
    if differing:
        raise RunError(
            f"the processes of a run need the same flags: {'; '.join(differing)}"
        )
    values = {k.flag: k.parse(theirs[k.flag]) for k in config.knobs(options)}
    return config.replace(options, values | {"quiet": True})


def _texts(part: Any) -> dict[str, str]:
    return {knob.flag: knob.format(knob.default) for knob in config.knobs(part)}


class Stop:
    """Whether any process was asked to stop; all learn it after the same step.

    Every process casts a vote after each step, and reads the one of a few steps ago: a
    maximum over all devices that was computed meanwhile. A single process needs none.

    Args:
      request: what signals this process got.
      devices: the mesh of the run.
    """

    def __init__(self, request: Request, devices: jax.sharding.Mesh):
        self._request, self._mesh = request, devices
        self._votes: collections.deque[jax.Array] = collections.deque()
        whole = mesh.replicated(devices)
        self._count = jax.jit(jnp.max, out_shardings=whole)
        self._ballots: dict[int, jax.Array] = {}

    def asked(self, *, last: bool = False) -> int:
        """The number of a signal, or 0; `last` waits for all votes."""
        mine = self._request.signal or 0
        if jax.process_count() == 1:
            return mine
        if mine not in self._ballots:
            ballot = np.full(len(self._mesh.local_devices), mine, np.int32)
            self._ballots[mine] = mesh.put(self._mesh, ballot)
        self._votes.append(self._count(self._ballots[mine]))
        found = 0
        while len(self._votes) > (0 if last else VOTES):
            found = max(found, int(self._votes.popleft()))
        return found
