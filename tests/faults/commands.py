"""Training commands as processes that tests may kill."""

import os
import subprocess
import sys
import time
from pathlib import Path

from jaxfaces.engine import logs

ROOT = Path(__file__).parents[2]
EVERY = ("--log_every=3", "--eval_every=4", "--checkpoint_every=5")


def start(workdir, *flags, task="Linear", every=EVERY):
    """`python -m jaxfaces.train` on a contract task, one device, in a process."""
    words = [sys.executable, "-m", "jaxfaces.train", f"--task=contract_tasks:{task}"]
    words += [f"--workdir={workdir}", "--devices=1", *every, *flags]
    path = [str(ROOT / "tests" / "engine"), os.environ.get("PYTHONPATH", "")]
    # The parent's simulated devices would change the compiled program.
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        words,
        env=env | {"PYTHONPATH": os.pathsep.join(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    """Waits for a process; returns what it printed, and what it complained of."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def wait_for_step(workdir, step, process):
    """Until the log has come so far."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(r["step"] >= step for r in logs.read(Path(workdir) / "metrics.jsonl")):
            return
        if process.poll() is not None:
            raise AssertionError(f"ended early: {process.communicate()}")
        time.sleep(0.02)
    raise AssertionError(f"no step {step} in 120 s")
