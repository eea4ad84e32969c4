"""The compiled programs of a run: first state, phases, prediction."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxfaces.engine import mesh as mesh_lib
from jaxfaces.engine import totals as totals_lib
from jaxfaces.engine.task import Batch, Phase, Sizes, Task


class Program:
    """Jitted functions of one task on one mesh, over one or several seeds at once.

    With several seeds every function maps over a leading axis of state, keys and
    totals; batches are shared. `warn` gets a line when a phase compiles a second time.
    """

    def __init__(
        self,
        task: Task,
        mesh: Mesh,
        sizes: Sizes,
        *,
        seed: int,
        seeds: int,
        warn: Callable[[str], None],
    ):
        self.task, self.mesh, self.sizes, self.seeds = task, mesh, sizes, seeds
        self._warn = warn
        self._replicated = mesh_lib.replicated(mesh)
        self._traces: dict[str, list[dict[str, str]]] = {}
        self._functions: dict[str, Callable] = {}
        self._predict = jax.jit(task.predict)
        self._inference = jax.jit(task.inference)
        keys = [jax.random.key(seed + i) for i in range(seeds)]
        roots = jax.numpy.stack(keys) if seeds > 1 else keys[0]
        self.roots = jax.device_put(roots, self._replicated)

    @property
    def compilations(self) -> int:
        """How often a phase was compiled; one a phase is what there should be."""
        return sum(len(traces) for traces in self._traces.values())

    def init(self, batch: Batch) -> Any:
        """The first state, made on the devices."""

        def make(root: jax.Array, batch: Batch) -> Any:
            # A key that no step uses: steps fold in numbers from 0.
            return self.task.init(
                jax.random.fold_in(root, 2**32 - 1), batch, self.sizes
            )

        make = jax.vmap(make, (0, None)) if self.seeds > 1 else make
        return jax.jit(make, out_shardings=self._replicated)(self.roots, batch)

    def zero_totals(self, state: Any, batch: Batch, phases: Sequence[Phase]) -> Any:
        """Totals of all metrics of all phases before the first step, by phase."""
        found = {}
        for phase in phases:
            given = {name: batch[name] for name in phase.streams}
            step, _ = self._mapped(phase.step, 3)
            metrics = jax.eval_shape(step, state, given, self.roots)[1]
            found[phase.name] = totals_lib.zeros(metrics)
            if phase.enter is not None:
                enter, _ = self._mapped(phase.enter, 2)
                metrics = jax.eval_shape(enter, state, self.roots)[1]
                found[entering(phase)] = totals_lib.zeros(metrics)
        if self.seeds > 1:
            found = jax.tree.map(
                lambda x: jax.numpy.broadcast_to(x, (self.seeds,)), found
            )
        return jax.device_put(found, self._replicated)

    def clear(self, totals: Any) -> Any:
        """Totals of the same shape, back at their beginning."""
        return jax.device_put(
            jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), totals),
            self._replicated,
        )

    def step(self, phase: Phase, state: Any, totals: Any, batch: Batch, n: int) -> Any:
        """Runs step number `n`; returns (state, totals, a token to wait on)."""
        run = self._function(phase.name, self._build_step, phase)
        return run(state, totals, batch, self.roots, np.int32(n))

    def enter(self, phase: Phase, state: Any, totals: Any, n: int) -> Any:
        """Runs `phase.enter` before step number `n`; returns (state, totals)."""
        run = self._function(entering(phase), self._build_enter, phase)
        return run(state, totals, self.roots, np.int32(n))

    def state_of(self, state: Any, seed: int) -> Any:
        """The state of one of the seeds."""
        if self.seeds == 1:
            return state
        return jax.tree.map(lambda x: x[seed], state)

    def variables(self, state: Any) -> Any:
        """The task's inference variables of a state without a seed axis."""
        return self._inference(state)

    def predictor(self, variables: Any) -> Callable[[Mapping[str, Any]], Any]:
        """`predict(batch)` for host batches of one stream."""
        return lambda batch: self._predict(variables, mesh_lib.put(self.mesh, batch))

    def _mapped(self, function: Any, arguments: int) -> tuple[Callable, Callable]:
        """A step or enter function and `totals.add`, over the seeds if several."""
        if self.seeds == 1:
            return function, totals_lib.add
        axes = (0, None, 0) if arguments == 3 else (0, 0)
        return jax.vmap(function, axes), jax.vmap(totals_lib.add, (0, 0, None))

    def _build_step(self, phase: Phase) -> Callable:
        step, add = self._mapped(phase.step, 3)

        def run(state: Any, totals: Any, batch: Batch, roots: Any, n: Any) -> Any:
            self._trace(phase.name, {"state": state, "batch": batch})
            state, metrics = step(state, batch, _fold(roots, n))
            return state, add(totals, metrics, n), n + 1

        out = self._replicated
        return jax.jit(run, donate_argnums=(0, 1), out_shardings=(out, out, out))

    def _build_enter(self, phase: Phase) -> Callable:
        enter, add = self._mapped(phase.enter, 2)

        def run(state: Any, totals: Any, roots: Any, n: Any) -> Any:
            self._trace(entering(phase), {"state": state})
            # A draw of its own, apart from that of step n.
            state, metrics = enter(state, _fold(_fold(roots, n), 2**31))
            return state, add(totals, metrics, n)

        out = self._replicated
        return jax.jit(run, donate_argnums=(0, 1), out_shardings=(out, out))

    def _function(self, name: str, build: Callable, phase: Phase) -> Callable:
        if name not in self._functions:
            self._functions[name] = build(phase)
        return self._functions[name]

    def _trace(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Notes a compilation (this runs while tracing only), warns of a second."""
        leaves = jax.tree_util.tree_leaves_with_path(arguments)
        shapes = {
            jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in leaves
        }
        traces = self._traces.setdefault(name, [])
        traces.append(shapes)
        if len(traces) > 1:
            self._warn(
                f"phase {name!r} was compiled {len(traces)} times: "
                + _changes(traces[-2], shapes)
            )


def entering(phase: Phase) -> str:
    """The name of a phase's `enter` in totals and in the log."""
    return f"{phase.name}/enter"


def _fold(keys: jax.Array, n: Any) -> jax.Array:
    fold = jax.random.fold_in
    return jax.vmap(fold, (0, None))(keys, n) if keys.ndim else fold(keys, n)


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Which arguments changed between two compilations, in words."""
    paths = sorted(set(old) | set(new))
    changed = [
        f"{path} was {old.get(path, 'absent')}, is {new.get(path, 'absent')}"
        for path in paths
        if old.get(path) != new.get(path)
    ]
    shown = "; ".join(itertools.islice(changed, 4))
    return shown or "no shape changed; a constant or a weak type did"
