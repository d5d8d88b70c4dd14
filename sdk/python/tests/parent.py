"""A host for a test to kill: starts a lab with a worker, prints the process group, and waits."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from host import PLUGINS, Plugin  # noqa: E402

plugin = Plugin(PLUGINS / "lab.py")
plugin.configure(lanes=1)
plugin.call("Env.Reset", task="lab/worker", seed=1)
print(plugin.process.pid, flush=True)
time.sleep(60)
