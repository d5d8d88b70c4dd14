"""Reach of Meta-World, with the scripted expert of its authors."""
import srpo_sdk as srpo  # isort: skip  (first, so that nothing another import prints reaches the host)
from metaworld.policies import SawyerReachV3Policy
from srpo_sdk.gymnasium import GymEnv

class Reach(GymEnv):
    info = srpo.Info("metaworld-reach", "0.1.0", doc="a Sawyer arm reaches a point")
    env_id, instruction, max_steps = "metaworld:Meta-World/MT1", "move the gripper to the red target", 200
    make_kwargs, proprio_keys = {"env_name": "reach-v3", "seed": 0, "width": 128, "height": 128}, []
    def reset(self, task, start_state, seed):  # Meta-World ignores reset(seed=...): a state is one of its 50 tasks
        self.env.get_wrapper_attr("toggle_sample_tasks_on_reset")(False)
        self.env.unwrapped.set_task(self.env.get_wrapper_attr("tasks")[start_state])
        super().reset(task, start_state, seed)
    def expert(self): return SawyerReachV3Policy().get_action(self.observation)
srpo.serve(Reach)
