"""The compiled programs of a run: first state, phases, prediction."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxfaces.engine import health, totals
from jaxfaces.engine import mesh as mesh_lib
from jaxfaces.engine.task import Batch, Phase, Sizes, Step, Task


class Program:
    """Jitted functions of one task on one mesh, over one or several seeds at once.

    With several seeds every function maps over a leading axis of state, keys and
    totals; batches are shared.

    Args:
      task: the task.
      mesh: its devices.
      sizes: (examples, classes) of each training stream.
      seed: the first seed.
      seeds: how many seeds are trained at once.
      patience: bad steps in a row to leave out; None stops at the first. A seed that
        has given up keeps the state of its last good step, beside others.
      deterministic: compile for a GPU without atomic additions and without choosing
        algorithms by timing.
      warn: gets a line when a phase compiles a second time.
    """

    def __init__(
        self,
        task: Task,
        mesh: Mesh,
        sizes: Sizes,
        *,
        seed: int,
        seeds: int,
        patience: int | None,
        deterministic: bool,
        warn: Callable[[str], None],
    ):
        self.task, self.mesh, self.sizes, self.seeds = task, mesh, sizes, seeds
        self._warn = warn
        self._patience = patience or 0
        # Choosing between two states costs a pass over them: only where one may matter.
        self._protect = patience is not None or seeds > 1
        self._replicated = mesh_lib.replicated(mesh)
        self._traces: dict[str, list[dict[str, str]]] = {}
        self._functions: dict[str, Callable] = {}
        self._ahead: dict[str, Future] = {}
        compiler = {"xla_gpu_deterministic_ops": True} if deterministic else {}
        self._compiler: dict[str, Any] = compiler
        self._jit = functools.partial(jax.jit, compiler_options=compiler)
        self._init = self._build_init()
        self._compiled_init: Callable | None = None
        self._predict = self._jit(task.predict)
        self._inference = self._jit(task.inference)
        keys = [jax.random.key(seed + i) for i in range(seeds)]
        roots = jax.numpy.stack(keys) if seeds > 1 else keys[0]
        self.roots = jax.device_put(roots, self._replicated)

    @property
    def compilations(self) -> int:
        """How often a phase was compiled; one a phase is what there should be."""
        return sum(len(traces) for traces in self._traces.values())

    def init(self, batch: Batch) -> Any:
        """The first state, made on the devices."""
        if self._compiled_init is None:
            options = dict(self._compiler)
            if jax.default_backend() == "cpu":
                # It runs once, and optimising it takes longer than all else at a start;
                # level 1 still fuses and rounds as the default does.
                options["xla_backend_optimization_level"] = 1
            lowered = self._init.lower(self.roots, batch)
            self._compiled_init = lowered.compile(compiler_options=options)
        return self._compiled_init(self.roots, batch)

    def _build_init(self) -> Any:
        def make(root: jax.Array, batch: Batch) -> Any:
            # A key that no step uses: steps fold in numbers from 0.
            key = jax.random.fold_in(root, 2**32 - 1)
            return jax.tree.map(_strong, self.task.init(key, batch, self.sizes))

        make = self._over_seeds(make, (0, None))
        return jax.jit(make, out_shardings=self._replicated)

    def start(self, batch: Batch, phases: Sequence[Phase]) -> dict[str, Any]:
        """All that a checkpoint holds, before any step: state, health and totals."""
        return self._with_totals(self.init(batch), batch, phases)

    def like(self, batch: Batch, phases: Sequence[Phase]) -> dict[str, Any]:
        """Shapes, types and places of what `start` gives; makes no state."""
        state = jax.eval_shape(self._init, self.roots, batch)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._replicated),
            self._with_totals(state, batch, phases),
        )

    def _with_totals(
        self, state: Any, batch: Batch, phases: Sequence[Phase]
    ) -> dict[str, Any]:
        sums = {}
        for name, function, streams in _functions(phases):
            given = {stream: batch[stream] for stream in streams}
            function = self._over_seeds(function, (0, None, 0))
            metrics = jax.eval_shape(function, state, given, self.roots)[1]
            sums[name] = totals.zeros(metrics)
        beside: dict[str, Any] = {"health": health.well(), "totals": sums}
        if self.seeds > 1:
            beside = jax.tree.map(
                lambda x: np.broadcast_to(x, (self.seeds, *np.shape(x))), beside
            )
        return {"state": state, **jax.device_put(beside, self._replicated)}

    def clear(self, sums: Any) -> Any:
        """Totals of the same shape, back at their beginning."""
        return jax.device_put(
            jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), sums), self._replicated
        )

    def step(
        self, phase: Phase, tree: Mapping[str, Any], batch: Batch, n: int
    ) -> tuple[dict[str, Any], jax.Array]:
        """Runs step number `n`; returns what `start` gave, after it, and a token.

        The token is ready when the step is done. `tree` must not be used again.
        """
        return self._run(phase.name, phase.step, tree, batch, n)

    def enter(self, phase: Phase, tree: Mapping[str, Any], n: int) -> dict[str, Any]:
        """Runs `phase.enter` before step number `n`."""
        return self._run(entering(phase), _entrance(phase), tree, {}, n)[0]

    def _run(
        self, name: str, function: Step, tree: Mapping[str, Any], batch: Batch, n: int
    ) -> tuple[dict[str, Any], jax.Array]:
        run = self._function(name, function)
        if name in self._ahead:
            self._ahead.pop(name).result()
        state, well, sums, token = run(
            tree["state"], tree["health"], tree["totals"][name], batch, self.roots,
            np.int32(n),
        )  # fmt: skip
        after = {**tree["totals"], name: sums}
        return {"state": state, "health": well, "totals": after}, token

    def compile_ahead(self, phase: Phase, tree: Mapping[str, Any], batch: Any) -> None:
        """Compiles a phase in a thread, while the host does something else.

        Args:
          phase: the phase whose step will be wanted.
          tree: what `like` gives.
          batch: one batch of the phase.
        """
        if jax.process_count() > 1:
            return  # processes might compile in different orders, and wait for others
        name = phase.name
        run = self._function(name, phase.step)
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            (tree["state"], tree["health"], tree["totals"][name], batch, self.roots),
        )
        number = jax.ShapeDtypeStruct((), np.int32)
        thread = ThreadPoolExecutor(1, "compile")
        # The first call with such arguments finds the program ready.
        self._ahead[name] = thread.submit(lambda: run.lower(*like, number).compile())
        thread.shutdown(wait=False)

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

    def _over_seeds(self, function: Callable, axes: tuple) -> Callable:
        return jax.vmap(function, axes) if self.seeds > 1 else function

    def _function(self, name: str, function: Step) -> Any:
        if name not in self._functions:
            self._functions[name] = self._build(name, function)
        return self._functions[name]

    def _build(self, name: str, function: Step) -> Callable:
        def one(
            state: Any, well: Any, sums: Any, batch: Batch, root: Any, n: Any
        ) -> Any:
            new, metrics = function(state, batch, jax.random.fold_in(root, n))
            well, counts = health.judge(well, metrics, n, patience=self._patience)
            if self._protect:
                new = health.choose(counts, new, state)
            return new, well, totals.add(sums, metrics, n, counts)

        every = self._over_seeds(one, (0, 0, 0, None, 0, None))

        def run(
            state: Any, well: Any, sums: Any, batch: Batch, roots: Any, n: Any
        ) -> Any:
            self._trace(name, {"state": state, "batch": batch})
            return (*every(state, well, sums, batch, roots, n), n + 1)

        out = self._replicated
        return self._jit(run, donate_argnums=(0, 1, 2), out_shardings=(out,) * 4)

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


def _strong(x: Any) -> Any:
    """Without a weak type, which a restored array has not either."""
    kind = jax.typeof(x)
    return jax.numpy.asarray(x, kind.dtype) if kind.weak_type else x


def entering(phase: Phase) -> str:
    """The name of a phase's `enter` in totals and in the log."""
    return f"{phase.name}/enter"


def _entrance(phase: Phase) -> Step:
    """`phase.enter` as a step that reads no batch."""
    enter = phase.enter
    assert enter is not None

    def step(state: Any, batch: Batch, key: jax.Array) -> Any:
        # A draw of its own, apart from that of the step that follows.
        return enter(state, jax.random.fold_in(key, 2**31))

    return step


def _functions(phases: Sequence[Phase]) -> Iterator[tuple[str, Step, Sequence[str]]]:
    """Name, function and streams of every step and entrance."""
    for phase in phases:
        yield phase.name, phase.step, phase.streams
        if phase.enter is not None:
            yield entering(phase), _entrance(phase), ()


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
