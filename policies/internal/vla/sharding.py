"""A network whose weights are divided among the processes (torch's FSDP2), and what an optimiser needs to know of that.
A network that is not divided passes through all of it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed, nn

# torch.distributed.fsdp and .tensor are imported where they are needed: they take a second, and most runs do without.


# Every pass is noted in FSDP's books, which only dividing clears: in a long evaluation nothing else does. All processes
# are asked as often, so they do it at the same time.
_CLEAR_EVERY = 1000


class Shards:
    """A model of which each process keeps a part of every parameter: of its first dimension, in the order of ranks.

    While it is divided, a forward pass brings the weights of one part of the model after the other together, a backward
    pass does so again and leaves each process its part of the summed gradient. So all processes have to make the same
    passes. While it is whole, passes are each process's own affair, and what changes a parameter's part is not seen.

    Args:
        model: every pass goes through its `forward`, which calls what it is given.
        blocks: parts of it that are brought together one at a time; the rest is one more. Only what a part's own
            `forward` does may use its parameters.
        device: where it is.
    """

    def __init__(self, model: nn.Module, blocks: Iterable[nn.Module], device: torch.device):
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = DeviceMesh.from_group(distributed.group.WORLD, device.type)
        self.model, self.is_whole, self.asked = model, False, 0
        self.parts = [*blocks, model]
        for part in self.parts:
            fully_shard(
                part, mesh=mesh, reshard_after_forward=True, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32)
            )
            # Losses are parts of one sum, not means; and gloo can only add.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)

    def whole(self) -> None:
        """Brings all weights together, for acting and saving."""
        self.asked += 1
        if self.asked % _CLEAR_EVERY == 0:
            self.divided()
        if self.is_whole:
            return
        for part in self.parts:
            part.unshard()
        self.model.set_reshard_after_forward(False)
        with torch.no_grad():
            self.model(lambda: None)  # its books are opened in the first pass
        self.is_whole = True

    def divided(self) -> None:
        """Leaves each process its part, for learning; gradients are forgotten."""
        if not self.is_whole:
            return
        for part in self.parts:
            part.reshard()
        # Passes made meanwhile are in its books, by which it fetches weights ahead; they are others in each process.
        self.model.reset_iter_state()
        self.model.set_reshard_after_forward(True)
        self.is_whole = False


def is_divided(p: torch.Tensor) -> bool:
    return hasattr(p, "to_local")  # a DTensor


def local(p: torch.Tensor) -> torch.Tensor:
    """This process's part of a parameter, in the same memory; the parameter itself where it is not divided."""
    return p.detach().to_local() if is_divided(p) else p


def rows(p: torch.Tensor, rank: int, size: int) -> slice:
    """The part of a divided parameter's first dimension that a rank has, as torch.chunk cuts it; it may be empty."""
    each = -(-p.shape[0] // size)
    return slice(min(rank * each, p.shape[0]), min((rank + 1) * each, p.shape[0]))


def cut(p: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor of the parameter's whole shape."""
    return tensor[rows(p, distributed.get_rank(), distributed.get_world_size())] if is_divided(p) else tensor


@torch.no_grad()
def fill(p: torch.Tensor, tensor: torch.Tensor) -> None:
    """Copies a tensor of the whole shape into a parameter, as far as this process has it."""
    local(p).copy_(cut(p, tensor))
