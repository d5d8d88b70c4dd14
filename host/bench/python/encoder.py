"""An encoder that does nothing: what remains is the way of a clip from the host to Python."""

import srpo_sdk as srpo  # isort: skip  (first, so that nothing another import prints reaches the host)
import numpy as np


class Nothing(srpo.Encoder):
    """Answers one zero a clip; with ``read`` the largest value in it, so that every byte is looked at."""

    info = srpo.Info(
        "bench-encoder", "0.1.0", [srpo.Setting("read", False, "look at every byte")], "an encoder that does nothing"
    )

    @classmethod
    def describe(cls, settings):
        return srpo.EncoderSpec(dimension=1)

    def __init__(self, config):
        self.read = config.settings["read"]

    def encode(self, clips):
        return [[float(np.max(clip)) if self.read else 0.0] for clip in clips]


srpo.serve(Nothing)
