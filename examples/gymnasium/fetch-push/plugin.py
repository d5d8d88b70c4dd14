"""FetchPush of gymnasium-robotics, without the object's position in the observation."""
import srpo_sdk as srpo  # isort: skip  (first, so that nothing another import prints reaches the host)
from srpo_sdk.gymnasium import GymEnv

class FetchPush(GymEnv):
    info = srpo.Info("fetch-push", "0.1.0", doc="a Fetch arm pushes a block to a target on the table")
    env_id, make_kwargs = "gymnasium_robotics:FetchPush-v4", {"width": 128, "height": 128}
    instruction, proprio_keys = "push the block to the red target", []

srpo.serve(FetchPush)
