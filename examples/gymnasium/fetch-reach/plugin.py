"""FetchReach of gymnasium-robotics."""
import srpo_sdk as srpo  # isort: skip  (first, so that nothing another import prints reaches the host)
from srpo_sdk.gymnasium import GymEnv

class FetchReach(GymEnv):
    info = srpo.Info("fetch-reach", "0.1.0", doc="a Fetch arm reaches a point in the air")
    env_id, make_kwargs = "gymnasium_robotics:FetchReach-v4", {"width": 128, "height": 128}
    instruction, proprio_keys = "move the gripper to the red target", ["observation"]

srpo.serve(FetchReach)
