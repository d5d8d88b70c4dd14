"""srpo_sdk: write environments, policies and encoders for srpo in Python.

Import it before anything else. In a process that the srpo host started, the import reserves the real stdout for the
handshake, points fd 1 at stderr and stdin at /dev/null, and ends the process when the host ends.
"""

from . import _process  # noqa: F401, I001  first, before anything can print

from ._calls import heartbeat, report_progress
from .encoder import Encoder, EncoderConfig, EncoderSpec
from .env import Env, EnvConfig, Step, Task
from .errors import Error, ErrorKind
from .info import Info, Setting, __version__
from .paths import path
from .policy import (
    ActItem,
    ActResult,
    Advantage,
    Demonstration,
    Hyperparameters,
    Imitate,
    Observation,
    Policy,
    PolicyConfig,
    PolicySpec,
    Sampling,
    Statistics,
    Update,
)
from .serving import serve
from .spec import ActionSpace, Camera, EnvSpec

__all__ = [
    "ActItem",
    "ActResult",
    "ActionSpace",
    "Advantage",
    "Camera",
    "Demonstration",
    "Encoder",
    "EncoderConfig",
    "EncoderSpec",
    "Env",
    "EnvConfig",
    "EnvSpec",
    "Error",
    "ErrorKind",
    "Hyperparameters",
    "Imitate",
    "Info",
    "Observation",
    "Policy",
    "PolicyConfig",
    "PolicySpec",
    "Sampling",
    "Setting",
    "Statistics",
    "Step",
    "Task",
    "Update",
    "__version__",
    "heartbeat",
    "path",
    "report_progress",
    "serve",
]
