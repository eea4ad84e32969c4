"""Exported runs: prediction as StableHLO in one file, without the task's code."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax.errors import InconclusiveDimensionOperation

from jaxfaces.engine import variables
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.files import replacing, write_text
from jaxfaces.engine.rundir import RunDir

FORMAT = "jaxfaces.export/1"
PLATFORMS = ("cpu", "cuda", "tpu")
# The file is a flatbuffer, whose offsets end at 2 GiB.
LARGEST = 2_000_000_000
# What tracing for any number of rows, or lowering for a platform, may raise.
UNSUITED = (
    InconclusiveDimensionOperation,
    NotImplementedError,
    TypeError,
    ValueError,
)


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `load_exported` gives back; call it with a batch.

    Attributes:
      inputs: {"dtype", "shape"} of each column of a batch; "b" is any number of rows.
      outputs: the same of each array that comes back, by its path in the output.
      metadata: task, flags, step, seed, platforms and versions.
      function: `batch -> outputs`, jitted.
    """

    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, Any]
    function: Callable[[Mapping[str, Any]], Any]

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Outputs for a batch.

        Args:
          batch: the columns that `inputs` names, and no other.

        Raises:
          ValueError: a column is missing, unknown, or of another type or shape.
        """
        if set(batch) != set(self.inputs):
            raise ValueError(f"a batch has {sorted(self.inputs)}, got {sorted(batch)}")
        columns = {name: jnp.asarray(value) for name, value in batch.items()}
        for name, kind in self.inputs.items():
            rows, *rest = columns[name].shape or (0,)
            dtype = columns[name].dtype.name
            if rest != kind["shape"][1:] or dtype != kind["dtype"] or not rows:
                raise ValueError(
                    f"{name} must be {kind['dtype']} {_shown(kind['shape'])} with "
                    f"b >= 1, got {dtype} {_shown(columns[name].shape)}"
                )
        return self.function(columns)


def export(
    workdir: Path | str,
    path: Path | str,
    *,
    best: bool = False,
    seed: int = 0,
    platforms: Sequence[str] = PLATFORMS,
    task_class: type | None = None,
) -> dict[str, Any]:
    """Writes a run's prediction with its variables to `path`, and `path`.json beside.

    Args:
      workdir: the run directory; its data are not needed.
      path: the file; read by `jax.export.deserialize` or `load_exported`.
      best: the variables of the best validation measure instead of the newest.
      seed: which of several parallel seeds, counted from 0.
      platforms: where it shall run.
      task_class: as in `jaxfaces.load`.

    Returns:
      The content of the .json file.

    Raises:
      RunError: there is no run, or its task cannot be exported.
    """
    path, folder = Path(path), RunDir(Path(workdir))
    task, options = folder.read(task_class)
    source = folder.params(seed, best=best)
    loaded, metadata = variables.load(source)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded))
    if size > LARGEST:
        raise RunError(
            f"{source} has {size:,} bytes, too many for one exported file; "
            "use it with jaxfaces.load"
        )
    arrays = jax.tree.map(jnp.asarray, loaded)
    lowered = _lower(task, arrays, _columns(folder), platforms)
    try:
        content = bytes(lowered.serialize())
    except ValueError as error:
        raise RunError(
            "what the task's predict returns cannot be exported (dictionaries, tuples "
            f"and lists of arrays can): {error}"
        ) from error
    step = variables.step_of(source, metadata)
    described = variables.describe(task, options, step=step, seed=seed)
    (batch,), _ = jax.tree.unflatten(lowered.in_tree, lowered.in_avals)
    about = {
        "format": FORMAT,
        "inputs": {name: _kind(aval) for name, aval in batch.items()},
        "outputs": _outputs(jax.tree.unflatten(lowered.out_tree, lowered.out_avals)),
        "task": described["task"],
        "flags": described["flags"].splitlines(),
        "step": step,
        "seed": options.seed + seed,
        "classes": list(variables.classes_of(source, metadata)),
        "jaxfaces": described["jaxfaces"],
        "jax": jax.__version__,
        "platforms": list(lowered.platforms),
        "calling_convention": lowered.calling_convention_version,
        "bytes": len(content),
        "digest": _digest(content),
    }
    _write(path, content, about)
    return about


def load_exported(path: Path | str) -> Exported:
    """Loads what `export` wrote; needs neither the run nor the task's code.

    Load only files that you trust: what is in them is executed.

    Raises:
      RunError: a file is missing or damaged, or another version of jax wrote it.
    """
    path = Path(path)
    about = _read_about(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if _digest(content) != about["digest"]:
        raise RunError(
            f"{path} is damaged, or not the file that {_beside(path)} describes; "
            "copy both again, or export the run again"
        )
    try:
        lowered = jax_export.deserialize(bytearray(content))
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise RunError(
            f"{path} was exported with jax {about['jax']} and cannot be read by "
            f"{jax.__version__}; export the run again ({error})"
        ) from error
    if jax.default_backend() not in _backends(about["platforms"]):
        raise RunError(
            f"{path} was exported for {', '.join(about['platforms'])}, not for "
            f"{jax.default_backend()}; export the run again with --platforms"
        )
    inputs, outputs = about.pop("inputs"), about.pop("outputs")
    return Exported(inputs, outputs, about, jax.jit(lowered.call))


class _Asked(Mapping[str, Any]):
    """A batch that notes which of its columns are read."""

    def __init__(self, columns: Mapping[str, Any]):
        self._columns = columns
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def _lower(
    task: Any, arrays: Any, columns: Mapping[str, Any], platforms: Sequence[str]
) -> jax_export.Exported:
    """The task's predict for any number of rows, of the columns that it reads."""
    asked: set[str] = set()

    def noting(columns: Mapping[str, Any]) -> Any:
        batch = _Asked(columns)
        outputs = task.predict(arrays, batch)
        asked.update(batch.names & set(columns))
        return outputs

    def predict(batch: Mapping[str, Any]) -> Any:
        # Behind the barrier XLA treats them as arguments: it neither folds constants,
        # which takes longer to compile, nor rounds otherwise than in training.
        return task.predict(jax.lax.optimization_barrier(arrays), batch)

    try:
        jax.eval_shape(noting, columns)
        given = {name: columns[name] for name in sorted(asked)}
        return jax_export.export(jax.jit(predict), platforms=platforms)(given)
    except KeyError as error:
        raise RunError(
            f"the task's predict reads the column {error}, which the run's data do not "
            f"have: {sorted(columns)}"
        ) from error
    except UNSUITED as error:
        raise RunError(
            "the task's predict cannot be exported for any number of rows and "
            f"{', '.join(platforms)}: {error}"
        ) from error


def _columns(folder: RunDir) -> dict[str, jax.ShapeDtypeStruct]:
    """The columns of a batch of the run, with any number of rows."""
    if not folder.columns.exists():
        raise RunError(
            f"{folder.folder} was begun by an older version, which did not note what "
            "a batch looks like; give its command once more with --steps one larger"
        )
    try:
        types = json.loads(folder.columns.read_text(encoding="utf-8"))
        (rows,) = jax_export.symbolic_shape("b")
        return {
            name: jax.ShapeDtypeStruct((rows, *kind["shape"]), np.dtype(kind["dtype"]))
            for name, kind in types.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{folder.columns} is damaged: {error}") from error


def _kind(aval: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in aval.shape]
    return {"dtype": aval.dtype.name, "shape": shape}


def _outputs(tree: Any) -> dict[str, dict[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _kind(leaf)
        for path, leaf in leaves
    }


def _shown(shape: Sequence[Any]) -> str:
    return f"({', '.join(map(str, shape))})"


def _backends(platforms: Sequence[str]) -> list[str]:
    return ["gpu" if name in ("cuda", "rocm") else name for name in platforms]


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _write(path: Path, content: bytes, about: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    write_text(_beside(path), json.dumps(about, indent=2) + "\n")


def _read_about(path: Path) -> dict[str, Any]:
    beside = _beside(path)
    if not beside.exists():
        raise RunError(f"{beside} is missing: it goes along with {path}")
    try:
        about = dict(json.loads(beside.read_text(encoding="utf-8")))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']}, not {FORMAT}")
        known = ("inputs", "outputs", "digest", "jax", "platforms")
        missing = [name for name in known if name not in about]
        if missing:
            raise ValueError(f"it has no {missing[0]!r}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{beside} does not describe an exported run: {error}"
        ) from error
    return about
