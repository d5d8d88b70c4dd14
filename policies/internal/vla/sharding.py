"""A network whose parameters are sharded among the processes (torch's FSDP2), and what an optimiser needs for it.

The functions also accept parameters that are not sharded, and return them unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed, nn

# torch.distributed.fsdp and .tensor are imported where they are used: that takes a second, and most runs do not shard.

# FSDP records every forward pass, and only resharding clears the record. A long evaluation never reshards, so `gather`
# does it after this many calls. All processes call it equally often, and hence reshard at the same time.
_RESHARD_EVERY = 1000


class ShardedModel:
    """A model of which each process keeps one shard of every parameter: some rows of its first dimension, by rank.

    The model is in one of two states. While it is *sharded*, a forward pass gathers the weights of one block after the
    other; a backward pass does so again, and leaves each process its shard of the summed gradient. All processes must
    therefore make the same passes. While it is *gathered*, each process makes its passes alone, and a change of a
    parameter's shard has no effect on them.

    Args:
        model: all passes go through its `forward`, which calls the function that it is given.
        blocks: the submodules that are gathered one at a time; the rest of the model is one more. Only the `forward`
            of a block may use its parameters.
        device: where the model is.
    """

    def __init__(self, model: nn.Module, blocks: Iterable[nn.Module], device: torch.device):
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = DeviceMesh.from_group(distributed.group.WORLD, device.type)
        self.model, self.gathered, self.gather_calls = model, False, 0
        self.parts = [*blocks, model]
        for part in self.parts:
            fully_shard(
                part, mesh=mesh, reshard_after_forward=True, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32)
            )
            # The losses of the processes are summands, not means; and gloo supports sums only.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)

    def gather(self) -> None:
        """Gives every process all weights, for acting and saving."""
        self.gather_calls += 1
        if self.gather_calls % _RESHARD_EVERY == 0:
            self.shard()
        if self.gathered:
            return
        for part in self.parts:
            part.unshard()
        self.model.set_reshard_after_forward(False)
        with torch.no_grad():
            self.model(lambda: None)  # FSDP initialises its state in the first pass
        self.gathered = True

    def shard(self) -> None:
        """Leaves each process its shard only, for learning. Gradients are dropped."""
        if not self.gathered:
            return
        for part in self.parts:
            part.reshard()
        # FSDP prefetches weights in the recorded order of passes, which may differ between processes by now.
        self.model.reset_iter_state()
        self.model.set_reshard_after_forward(True)
        self.gathered = False


def is_sharded(p: torch.Tensor) -> bool:
    return hasattr(p, "to_local")  # a DTensor


def local(p: torch.Tensor) -> torch.Tensor:
    """This process's shard of a parameter, in the same memory. Without sharding, the parameter itself."""
    return p.detach().to_local() if is_sharded(p) else p


def shard_rows(p: torch.Tensor, rank: int, size: int) -> slice:
    """The rows of a sharded parameter's first dimension that a rank has, as torch.chunk splits it. It may be empty."""
    per_rank = -(-p.shape[0] // size)
    return slice(min(rank * per_rank, p.shape[0]), min((rank + 1) * per_rank, p.shape[0]))


def shard_of(p: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard of a tensor that has the full shape of parameter p."""
    return tensor[shard_rows(p, distributed.get_rank(), distributed.get_world_size())] if is_sharded(p) else tensor


@torch.no_grad()
def copy_into(p: torch.Tensor, tensor: torch.Tensor) -> None:
    """Copies a tensor of the full shape into a parameter, or this process's shard of it."""
    local(p).copy_(shard_of(p, tensor))
