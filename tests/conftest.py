"""Eight simulated devices, strict ranks and a compilation cache for every test."""

import contextlib
import os
import signal
import tempfile
from pathlib import Path

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

CACHE = Path(
    os.environ.get("JAXFACES_TEST_CACHE")
    or Path(tempfile.gettempdir()) / f"jaxfaces-tests-{jax.__version__}"
)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

flags.FLAGS.mark_as_parsed()  # chex and grain ask for their flags

MAPS = 20_000  # of the 65,530 that Linux allows a process


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Drops compiled programs before a worker runs out of memory maps.

    A program takes some ten. Where none is left no thread and no further program can
    begin, and the process dies.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """$JAXFACES_DATA, or a skip where it is not set."""
    folder = os.environ.get("JAXFACES_DATA")
    if not folder:
        pytest.skip("needs real data: set JAXFACES_DATA to the folder that holds it")
    return Path(folder)


@pytest.fixture
def stopping():
    """A context in which this process gets SIGTERM after so many further steps."""
    from jaxfaces.engine import logs

    @contextlib.contextmanager
    def after(steps):
        left = steps

        def counted(self):
            nonlocal left
            advance(self)
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGTERM)

        advance = logs.Progress.advance
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logs.Progress, "advance", counted)
            yield

    return after


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """The directory of a retrieval run of two steps on made-up 32-pixel images."""
    import jaxfaces
    from jaxfaces.tasks.retrieval import Retrieval

    folder = tmp_path_factory.mktemp("tiny") / "run"
    task = Retrieval(steps=2, clustering=False).smoke()
    jaxfaces.run(task, folder, eval_every=2, log_every=1, quiet=True)
    return folder
