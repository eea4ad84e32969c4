"""The same seed gives the same bits; on a GPU with --deterministic."""

import contract_tasks
import jax
import numpy as np
import pytest

import jaxfaces
from jaxfaces.engine import assembly, loop
from jaxfaces.engine.options import Options


def run(workdir, **changes):
    settings = {"log_every": 3, "eval_every": 4, "checkpoint_every": 5, "devices": 1}
    loop.run(contract_tasks.Linear(), workdir, quiet=True, **(settings | changes))
    return jaxfaces.load(workdir, task_class=contract_tasks.Linear).variables


def test_two_runs_are_equal_bit_for_bit(tmp_path):
    for deterministic in (False, True):
        a, b = (
            run(tmp_path / f"{deterministic}{i}", deterministic=deterministic)
            for i in range(2)
        )
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_program_of_a_run_is_compiled_with_the_flag(monkeypatch):
    # The name of XLA's option is replaced by one that no compiler knows: each program
    # of the run must now be refused, so each was given it.
    from jaxfaces.engine import program

    monkeypatch.setattr(program, "DETERMINISTIC", {"xla_gpu_no_such_option": True})
    for deterministic in (True, False):
        options = Options(devices=1, deterministic=deterministic)
        parts = assembly.assemble(contract_tasks.Linear(), options)
        if not deterministic:
            parts.start()
            continue
        with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
            parts.start()
        monkeypatch.setattr(program, "DETERMINISTIC", {})
        tree = assembly.assemble(contract_tasks.Linear(), Options(devices=1)).start()
        monkeypatch.setattr(program, "DETERMINISTIC", {"xla_gpu_no_such_option": True})
        with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
            phase = parts.timeline.phases[0]
            parts.program.step(phase, tree, parts.first_batch(), 0)
        with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
            parts.program.variables(tree["state"])


def test_this_compiler_knows_the_option():
    from jaxfaces.engine import program

    options = dict(program.DETERMINISTIC)
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2
