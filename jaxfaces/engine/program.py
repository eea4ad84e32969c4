"""The compiled programs of a run: first state, phases, prediction."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxfaces.engine import health, sharding, totals
from jaxfaces.engine import mesh as mesh_lib
from jaxfaces.engine.compiled import Compilations
from jaxfaces.engine.task import Batch, Phase, Sizes, Step, Task

# No atomic additions, and no choice of algorithms by timing.
DETERMINISTIC = {"xla_gpu_deterministic_ops": True}


class Program:
    """Jitted functions of one task on one mesh, over one or several seeds at once.

    With several seeds every function maps over a leading axis of state, keys and
    totals; batches are shared. The state keeps the shardings that `init` gave it.

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
      shard_state: one of `sharding.CHOICES`; a task's own `sharding` goes before it.
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
        shard_state: str,
        warn: Callable[[str], None],
    ):
        self.task, self.mesh, self.sizes, self.seeds = task, mesh, sizes, seeds
        self._patience = patience or 0
        # Choosing between two states costs a pass over them: only where one may matter.
        self._protect = patience is not None or seeds > 1
        self._replicated = mesh_lib.replicated(mesh)
        self._traces = Compilations(warn)
        self._functions: dict[str, Callable] = {}
        self._ahead: dict[str, Future] = {}
        compiler = DETERMINISTIC if deterministic else {}
        self._compiler: dict[str, Any] = compiler
        self._jit = functools.partial(jax.jit, compiler_options=compiler)
        self._shard_state = shard_state
        self._init: Callable | None = None
        # Whole on every device, so that every process can read them.
        self._predict = self._jit(task.predict, out_shardings=self._replicated)
        self._inference = self._jit(task.inference, out_shardings=self._replicated)
        self._clear = self._jit(
            lambda sums: jax.tree.map(jax.numpy.zeros_like, sums),
            out_shardings=self._replicated,
        )

        def roots() -> jax.Array:
            keys = [jax.random.key(seed + i) for i in range(seeds)]
            return jax.numpy.stack(keys) if seeds > 1 else keys[0]

        self.roots = jax.jit(roots, out_shardings=self._replicated)()

    @property
    def compilations(self) -> int:
        """How often a phase was compiled; one a phase is what there should be."""
        return self._traces.count

    def init(self, batch: Batch) -> Any:
        """The first state, made on the devices."""
        if self._init is None:
            options = dict(self._compiler)
            if jax.default_backend() == "cpu":
                # It runs once, and optimising it takes longer than all else at a start;
                # level 1 still fuses and rounds as the default does.
                options["xla_backend_optimization_level"] = 1
            make = jax.jit(self._make, out_shardings=self.places(batch))
            lowered = make.lower(self.roots, batch)
            self._init = lowered.compile(compiler_options=options)
        return self._init(self.roots, batch)

    def _make(self, roots: jax.Array, batch: Batch) -> Any:
        return self._over_seeds(self._first, (0, None))(roots, batch)

    def _first(self, root: jax.Array, batch: Batch) -> Any:
        # A key that no step uses: steps fold in numbers from 0.
        key = jax.random.fold_in(root, 2**32 - 1)
        return jax.tree.map(_strong, self.task.init(key, batch, self.sizes))

    def places(self, batch: Batch) -> Any:
        """Where the state lies: one sharding for all its leaves, or one for each."""
        if self._shard_state == "replicated" and not hasattr(self.task, "sharding"):
            return self._replicated
        return sharding.places(
            self.task,
            self.mesh,
            jax.eval_shape(self._first, jax.random.key(0), batch),
            choice=self._shard_state,
            seeds=self.seeds,
        )

    def start(self, batch: Batch, phases: Sequence[Phase]) -> dict[str, Any]:
        """All that a checkpoint holds, before any step: state, health and totals."""
        return self._with_totals(self.init(batch), batch, phases)

    def like(self, batch: Batch, phases: Sequence[Phase]) -> dict[str, Any]:
        """Shapes, types and places of what `start` gives; makes no state."""
        state = jax.eval_shape(self._make, self.roots, batch)
        shapes = self._with_totals(state, batch, phases)
        places = {name: self._replicated for name in shapes}
        places["state"] = self.places(batch)

        def shaped(place: Any, below: Any) -> Any:
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), below
            )

        # One place may stand for all leaves below it.
        return jax.tree.map(shaped, places, shapes)

    def _with_totals(
        self, state: Any, batch: Batch, phases: Sequence[Phase]
    ) -> dict[str, Any]:
        sums = {}
        for name, function, streams in _functions(phases):
            given = {stream: batch[stream] for stream in streams}
            function = self._over_seeds(function, (0, None, 0))
            metrics = jax.eval_shape(function, state, given, self.roots)[1]
            sums[name] = totals.zeros(metrics)
        lead = (self.seeds,) if self.seeds > 1 else ()
        beside: dict[str, Any] = {"health": health.well(), "totals": sums}
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(lead, x.dtype), beside)
        return {"state": state, **self._zeros(shapes)}  # all of it begins at zero

    def clear(self, sums: Any) -> Any:
        """Totals of the same shape, back at their beginning."""
        return self._clear(sums)

    def _zeros(self, like: Any) -> Any:
        return jax.tree.map(
            lambda x: mesh_lib.everywhere(self.mesh, np.zeros(x.shape, x.dtype)), like
        )

    def step(
        self, phase: Phase, tree: Mapping[str, Any], batch: Batch, n: int
    ) -> tuple[dict[str, Any], jax.Array]:
        """Runs step number `n`; returns what `start` gave, after it, and a token.

        The token is ready when the step is done. `tree` must not be used again. The
        batch is what `mesh.feed` gives.
        """
        return self._run(phase, tree, batch, n)

    def enter(self, phase: Phase, tree: Mapping[str, Any], n: int) -> dict[str, Any]:
        """Runs `phase.enter` before step number `n`."""
        return self._run(phase, tree, {}, n, entrance=True)[0]

    def lower(self, phase: Phase, tree: Mapping[str, Any], batch: Batch) -> Any:
        """The program of a step, to compile and look into; shapes are enough."""
        run = self._function(phase, tree)
        return run.lower(*self._arguments(phase.name, tree, batch, 0))

    def _run(
        self,
        phase: Phase,
        tree: Mapping[str, Any],
        batch: Batch,
        n: int,
        *,
        entrance: bool = False,
    ) -> tuple[dict[str, Any], jax.Array]:
        name = entering(phase) if entrance else phase.name
        run = self._function(phase, tree, entrance)
        if name in self._ahead:
            # Should it have failed, the call below says why.
            wait([self._ahead.pop(name)])
        state, well, sums, token = run(*self._arguments(name, tree, batch, n))
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
        thread = ThreadPoolExecutor(1, "compile")
        # The first call with such arguments finds the program ready.
        self._ahead[phase.name] = thread.submit(
            lambda: self.lower(phase, tree, batch).compile()
        )
        thread.shutdown(wait=False)

    def _function(
        self, phase: Phase, tree: Mapping[str, Any], entrance: bool = False
    ) -> Any:
        name = entering(phase) if entrance else phase.name
        if name not in self._functions:
            places = jax.tree.map(lambda leaf: leaf.sharding, tree["state"])
            self._functions[name] = self._build(phase, places, entrance)
        return self._functions[name]

    def _arguments(
        self, name: str, tree: Mapping[str, Any], batch: Batch, n: int
    ) -> tuple[Any, ...]:
        sums = tree["totals"][name]
        return tree["state"], tree["health"], sums, batch, self.roots, np.int32(n)

    def state_of(self, state: Any, seed: int) -> Any:
        """The state of one of the seeds."""
        if self.seeds == 1:
            return state
        return jax.tree.map(lambda x: x[seed], state)

    def variables(self, state: Any) -> Any:
        """The task's inference variables of a state without a seed axis."""
        return self._inference(state)

    def predictor(self, variables: Any) -> Callable[[Mapping[str, Any]], Any]:
        """`predict(batch)` for whole host batches of one stream."""

        def predict(batch: Mapping[str, Any]) -> Any:
            return self._predict(variables, mesh_lib.put_whole(self.mesh, batch))

        return predict

    def _over_seeds(self, function: Callable, axes: tuple) -> Callable:
        return jax.vmap(function, axes) if self.seeds > 1 else function

    def _build(self, phase: Phase, places: Any, entrance: bool) -> Callable:
        name = entering(phase) if entrance else phase.name
        function = _entrance(phase) if entrance else phase.step

        def one(
            state: Any, well: Any, sums: Any, batch: Batch, root: Any, n: Any
        ) -> Any:
            new, metrics = function(state, batch, jax.random.fold_in(root, n))
            running = well.failed == 0
            well, counts = health.judge(
                well, metrics, n, patience=self._patience, entrance=entrance
            )
            if self._protect:
                new = health.choose(counts, new, state)
            return new, well, totals.add(sums, metrics, n, counts, running)

        every = self._over_seeds(one, (0, 0, 0, None, 0, None))

        def run(
            state: Any, well: Any, sums: Any, batch: Batch, roots: Any, n: Any
        ) -> Any:
            self._traces.note(name, {"state": state, "batch": batch})
            with sharding.sharing(self.mesh):
                return (*every(state, well, sums, batch, roots, n), n + 1)

        whole, rows = self._replicated, mesh_lib.split(self.mesh)
        return self._jit(
            run,
            donate_argnums=(0, 1, 2),
            in_shardings=(places, whole, whole, rows, whole, whole),
            out_shardings=(places, whole, whole, whole),
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
