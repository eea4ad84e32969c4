"""Programs compiled ahead of their first call."""

import contract_tasks
import jax
import jax.numpy as jnp
import pytest

from jaxfaces.engine import assembly, reader, resident
from jaxfaces.engine.options import Options


class WeakLinear(contract_tasks.Linear):
    """Begins with a weakly typed number, which no checkpoint brings back."""

    def init(self, key, batch, sizes):
        return super().init(key, batch, sizes).replace(step=jnp.asarray(0))


@pytest.fixture
def lowered():
    """Names of what was lowered to be compiled since the test began."""
    events = []
    active = [True]

    def note(event, seconds, **_):
        if active[0] and "jaxpr_to_mlir_module" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield events
    active[0] = False


@pytest.mark.parametrize("where", ["off", "on"])
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("make", [contract_tasks.Linear, WeakLinear])
def test_the_first_step_runs_what_was_compiled_ahead(make, seeds, where, lowered):
    options = Options(devices=2, parallel_seeds=seeds, resident=where)
    parts = assembly.assemble(make(), options)
    template = parts.template()
    parts.compile_ahead(0, template)
    tree = parts.start()
    batch = as_the_loop_does(parts)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), template)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)
    parts.program._ahead["train"].result()
    lowered.clear()
    phase = parts.timeline.phases[0]
    tree, _ = parts.program.step(phase, tree, batch, 0)
    parts.program.step(phase, tree, batch, 1)
    assert not lowered
    assert parts.program.compilations == 1


def as_the_loop_does(parts):
    """The first batch as the loop gives it to a step."""
    streams = resident.planned(parts.streams, parts.resident)
    feed = resident.feeder(
        resident.load(parts.resident, parts.program.mesh), parts.program.mesh
    )
    return feed(reader.first_batch(parts.timeline, streams))


def test_what_cannot_be_compiled_fails_at_the_first_step():
    class Broken(contract_tasks.Linear):
        def step(self, state, batch, key):
            if broken:
                raise ValueError("no such step")
            return contract_tasks.Linear.step(self, state, batch, key)

    broken = []
    parts = assembly.assemble(Broken(), Options(devices=1))
    template, tree, batch = parts.template(), parts.start(), parts.first_batch()
    broken.append(True)
    parts.compile_ahead(0, template)
    with pytest.raises(ValueError, match="no such step"):
        parts.program.step(parts.timeline.phases[0], tree, batch, 0)
