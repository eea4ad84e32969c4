"""Starting a run from the variables of another."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxfaces.engine import steps
from jaxfaces.engine import variables as variables_lib
from jaxfaces.engine.assembly import Assembly
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.engine.program import Program

SHOWN = 3


def first(parts: Assembly) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What a checkpoint holds before any step, and which file it took it from.

    That of `--init_from`, or of what the task imports (`Task.imported`).
    """
    tree = parts.start()
    start = load_into(parts.program, tree["state"], parts.options)
    if start is None:
        return tree, None
    state, origin = start
    return {**tree, "state": state}, origin


def load_into(
    program: Program, state: Any, options: Options
) -> tuple[Any, dict[str, Any]] | None:
    """Puts the variables of a file into a first state, of every seed.

    Args:
      program: the run's programs.
      state: the state that `program.init` made; its memory is used again.
      options: the run's options.

    Returns:
      The state, and what the summary says of where it comes from; None where there is
      no such file.

    Raises:
      RunError: the file is damaged, or its variables are not those of the task; the
        message names the first few.
    """
    one = jax.eval_shape(lambda tree: program.state_of(tree, 0), state)
    fresh = named(jax.eval_shape(program.task.inference, one))
    imported = getattr(program.task, "imported", lambda _: None)(fresh)
    if not options.init_from:
        if imported is None:
            return None
        path, chosen = imported
        kept = [name for name in fresh if name not in chosen]
        origin: dict[str, Any] = {}
    else:
        path = Path(options.init_from)
        if imported is not None:
            raise RunError(f"start from --init_from={path} or {imported[0]}, not both")
        loaded, metadata = variables_lib.load(path)
        kept = _skipped(list(fresh), options.init_skip)
        chosen = _match(path, named(loaded), fresh, kept, options.init_skip)
        known = {"task": str, "step": int, "seed": int, "digest": str}
        origin = {k: kind(metadata[k]) for k, kind in known.items() if k in metadata}
    state = _fill(program, state, chosen)
    return state, {"file": str(path), **origin, "left_fresh": kept}


def _fill(program: Program, state: Any, chosen: Mapping[str, Any]) -> Any:
    """A first state with the variables of these names in place of its own."""
    task = program.task
    put = getattr(task, "with_variables", None)
    if put is None and not isinstance(state, steps.State):
        raise RunError(
            f"--init_from: {type(task).__name__} needs a method "
            "with_variables(state, variables), because its state is one of its own"
        )
    put = put or steps.with_variables

    def fill(state: Any, chosen: Mapping[str, Any]) -> Any:
        variables = jax.tree_util.tree_map_with_path(
            lambda place, leaf: chosen.get(_name(place), leaf), task.inference(state)
        )
        return put(state, variables)

    mapped = jax.vmap(fill, (0, None)) if program.seeds > 1 else fill
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(mapped, donate_argnums=0, out_shardings=places)(state, chosen)


def named(tree: Any) -> dict[str, Any]:
    """The leaves of nested dictionaries by name, the path joined by "/"."""
    return {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=variables_lib.SEPARATOR)


def _skips(name: str, skip: Sequence[str]) -> bool:
    return any(f"/{part.strip('/')}/" in f"/{name}/" for part in skip)


def _skipped(names: Sequence[str], skip: Sequence[str]) -> list[str]:
    for part in skip:
        if not any(_skips(name, [part]) for name in names):
            parts = sorted({piece for name in names for piece in name.split("/")})
            near = difflib.get_close_matches(part, parts, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there is {parts}"
            raise RunError(f"--init_skip={part} is no part of a variable's name{hint}")
    return [name for name in names if _skips(name, skip)]


def _match(
    path: Path,
    loaded: Mapping[str, Any],
    fresh: Mapping[str, Any],
    kept: Sequence[str],
    skip: Sequence[str],
) -> dict[str, Any]:
    """The loaded variables that go into the state, all of the right kind."""
    wanted = {name: leaf for name, leaf in fresh.items() if name not in kept}
    chosen = {name: leaf for name, leaf in loaded.items() if not _skips(name, skip)}
    wrong = [f"{name} is missing" for name in wanted if name not in chosen]
    wrong += [f"{name} is unknown to the task" for name in chosen if name not in wanted]
    for name, leaf in wanted.items():
        if name in chosen and _kind(chosen[name]) != _kind(leaf):
            there, here = _kind(chosen[name]), _kind(leaf)
            wrong.append(f"{name} is {there} in the file, {here} in this run")
    if wrong:
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise RunError(
            f"--init_from={path} does not fit: {'; '.join(wrong[:SHOWN])}{more}. Give "
            "the flags of its run that shape the network, or leave what differs fresh "
            "with --init_skip=PART,..."
        )
    return chosen


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
