"""Push-T of gym-pusht, whose reset keeps the last action, which render() draws."""
import srpo_sdk as srpo  # isort: skip  (first, so that nothing another import prints reaches the host)
from srpo_sdk.gymnasium import GymEnv

class PushT(GymEnv):
    info = srpo.Info("pusht", "0.1.0", doc="a round finger pushes a T-shaped block onto its outline")
    env_id, instruction = "gym_pusht:gym_pusht/PushT-v0", "push the T onto the green outline"
    make_kwargs = {"obs_type": "pixels_agent_pos", "visualization_width": 128, "visualization_height": 128}
    remake_on_reset = True
srpo.serve(PushT)
