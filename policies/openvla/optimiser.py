"""AdamW over what learns, a copy to go back to, and the starting policy: nothing here knows a network's kind, and other
policies are made of this module, too.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class Optimiser:
    """AdamW over the parameters that learn, in float32 whatever the network's type.

    Where a parameter is not float32, or `offload` asks for it, a float32 copy (on the CPU with `offload`) is what the
    optimiser moves, and the parameter follows it: steps of 5e-6 are lost in bfloat16.
    """

    def __init__(self, model: nn.Module, settings: dict, offload: bool):
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.settings, self.offload = settings, offload
        self.masters = {}
        for n, p in self.parameters.items():
            if offload or p.dtype != torch.float32:
                self.masters[n] = p.detach().to("cpu" if offload else p.device, torch.float32, copy=True)
        moved = [self.masters.get(n, p) for n, p in self.parameters.items()]
        self.adam = torch.optim.AdamW(
            moved, lr=1.0, betas=(settings["adam_beta1"], settings["adam_beta2"]), weight_decay=settings["weight_decay"]
        )

    def fresh(self) -> None:
        """Forgets the gradients' moments."""
        self.adam.state.clear()

    def zero(self) -> None:
        for p in self.parameters.values():
            p.grad = None

    def step(self, lr: float) -> float:
        """Clips the gradient, makes a step, returns the norm that it had; no step if that is not finite."""
        for n, master in self.masters.items():
            grad = self.parameters[n].grad
            master.grad = None if grad is None else grad.to(master.device, torch.float32)
        moved = [self.masters.get(n, p) for n, p in self.parameters.items()]
        most = self.settings["grad_clip"]
        norm = float(nn.utils.clip_grad_norm_([m for m in moved if m.grad is not None], most or math.inf))
        if math.isfinite(norm):
            for group in self.adam.param_groups:
                group["lr"] = lr
            self.adam.step()
            self._follow()
        for master in self.masters.values():
            master.grad = None
        return norm

    @torch.no_grad()
    def _follow(self) -> None:
        for n, master in self.masters.items():
            self.parameters[n].copy_(master)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """(tensors by name, steps made by parameter): all that `restore` needs."""
        tensors, steps = {}, {}
        for n, p in self.parameters.items():
            master = self.masters.get(n, p)
            if n in self.masters:
                tensors[f"master.{n}"] = master
            if s := self.adam.state.get(master):
                tensors[f"m.{n}"], tensors[f"v.{n}"] = s["exp_avg"], s["exp_avg_sq"]
                steps[n] = float(s["step"])
        return tensors, steps

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], steps: dict[str, float]) -> None:
        """Takes over a state. Where float32 copies are kept now and were not then, they are made from the weights."""
        for n, p in self.parameters.items():
            master = self.masters.get(n, p)
            if n in self.masters:
                master.copy_(tensors.get(f"master.{n}", p))
            self.adam.state.pop(master, None)
            if n in steps:
                self.adam.state[master] = {
                    "step": torch.tensor(steps[n]),
                    "exp_avg": tensors[f"m.{n}"].to(master.device, torch.float32, copy=True),
                    "exp_avg_sq": tensors[f"v.{n}"].to(master.device, torch.float32, copy=True),
                }


class Keep:
    """A copy of the weights and the optimiser on the CPU, to go back to when an update fails.

    Args:
        most: bytes; a larger state is not copied, and `back` then says False.
    """

    def __init__(self, optimiser: Optimiser, most: int):
        tensors, self.steps = optimiser.state()
        tensors.update({f"w.{n}": p.detach() for n, p in optimiser.parameters.items()})
        self.optimiser = optimiser
        fits = sum(t.numel() * t.element_size() for t in tensors.values()) <= most
        self.tensors = {n: t.to("cpu", copy=True) for n, t in tensors.items()} if fits else None

    @torch.no_grad()
    def back(self) -> bool:
        """Restores what was kept; False when it was too much to be kept."""
        self.optimiser.zero()
        if self.tensors is None:
            return False
        for n, p in self.optimiser.parameters.items():
            p.copy_(self.tensors[f"w.{n}"])
        self.optimiser.restore(self.tensors, self.steps)
        return True


class swapped:
    """Within it, parameters hold other values."""

    def __init__(self, parameters: dict[str, nn.Parameter], values: dict[str, torch.Tensor]):
        self.parameters, self.values = parameters, values

    def __enter__(self) -> None:
        self.own = {n: p.data for n, p in self.parameters.items()}
        for n, p in self.parameters.items():
            p.data = self.values[n].to(p.device, p.dtype)

    def __exit__(self, *_) -> None:
        for n, p in self.parameters.items():
            p.data = self.own[n]


def starting(parameters: dict[str, nn.Parameter], offload: bool) -> dict[str, torch.Tensor]:
    """A frozen copy of the parameters, for the KL term; for an adapter it is the adapter alone."""
    return {n: p.detach().to("cpu" if offload else p.device, copy=True) for n, p in parameters.items()}
