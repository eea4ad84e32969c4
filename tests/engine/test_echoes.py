"""What libraries' threads print of an error that is raised as well is hidden."""

import subprocess
import sys

CODE = """
import sys, threading
from jaxfaces.engine import echoes
echoes.hide()
echoes.hide()

def echo():
    raise RuntimeError("Event loop is closed")

def fault():
    raise RuntimeError("a fault of our own")

for each in (echo, fault):
    thread = threading.Thread(target=each)
    thread.start()
    thread.join()
sys.excepthook(RuntimeError, RuntimeError("Event loop is closed"), None)
namespace = {}
source = "def read(): raise ValueError('orbax')"
exec(compile(source, "/x/orbax/read.py", "exec"), namespace)
thread = threading.Thread(target=namespace["read"])
thread.start()
thread.join()
fault()
"""


def test_echoes_are_hidden_and_our_own_faults_are_not():
    words = [sys.executable, "-c", CODE]
    err = subprocess.run(words, capture_output=True, text=True, check=False).stderr
    assert "Event loop" not in err and "orbax" not in err
    assert err.count("a fault of our own\n") == 2
