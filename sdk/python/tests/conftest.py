import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from host import PLUGINS, HostArena, Plugin  # noqa: E402


@pytest.fixture
def start():
    """Starts plugins by the names of their files, and ends them after the test."""
    running = []

    def begin(name, **options):
        plugin = Plugin(PLUGINS / f"{name}.py" if isinstance(name, str) else name, **options)
        running.append(plugin)
        return plugin

    yield begin
    for plugin in running:
        plugin.stop()


@pytest.fixture(scope="module")
def lab():
    """A configured lab with an arena, shared by the tests of a module."""
    plugin = Plugin(PLUGINS / "lab.py", arena=HostArena(32 << 20))
    try:
        plugin.configure(lanes=4)
        yield plugin
    finally:
        plugin.stop()
