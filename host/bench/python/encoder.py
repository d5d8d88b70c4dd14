"""An idle encoder, to measure the transport of a clip from the host to Python."""

import srpo_sdk as srpo  # isort: skip  (first, so that nothing another import prints reaches the host)
import numpy as np


class Idle(srpo.Encoder):
    """Returns one number per clip: 0, or the largest value of the clip with the setting ``read``."""

    info = srpo.Info("bench-encoder", "0.1.0", [srpo.Setting("read", False, "read every byte")], "an idle encoder")

    @classmethod
    def describe(cls, settings):
        return srpo.EncoderSpec(dimension=1)

    def __init__(self, config):
        self.read = config.settings["read"]

    def encode(self, clips):
        return [[float(np.max(clip)) if self.read else 0.0] for clip in clips]


srpo.serve(Idle)
