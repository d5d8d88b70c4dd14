"""AdamW over what learns, a copy to go back to, and the starting policy: nothing here knows a network's kind, and other
policies are made of this module, too.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from vla import sharding
from vla.ranks import Group


class Misfit(ValueError):
    """A saved state that does not belong to what learns."""


class Optimiser:
    """AdamW over the parameters that learn, in float32 whatever the network's type.

    Where a parameter is not float32, or `offload` asks for it, a float32 copy (on the CPU with `offload`) is what the
    optimiser moves, and the parameter follows it: steps of 5e-6 are lost in bfloat16.

    Of several processes each moves a part of the parameters: the gradients are summed where that is, and the moved
    parameters spread from there (ZeRO's first stage, arXiv 1910.02054). So the moments and the float32 copies are
    divided among them, and no two can come to differ in a parameter.

    Where the parameters are divided themselves (`sharding.Shards`), gradients are, too: each process moves its part of
    every parameter.
    """

    def __init__(self, model: nn.Module, settings: dict, offload: bool, group: Group | None = None):
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.settings, self.offload, self.group = settings, offload, group or Group()
        self.divided = any(map(sharding.is_divided, self.parameters.values()))
        self.local = {n: sharding.local(p) for n, p in self.parameters.items()}
        self.owners = _owners({n: p.numel() for n, p in self.parameters.items()}, self.group.size)
        if self.divided:  # parts without a row have nothing to move
            self.own = [n for n, p in self.local.items() if p.numel()]
        else:
            self.own = [n for n, owner in self.owners.items() if owner == self.group.rank]
        self.masters = {}
        for n in self.own:
            p = self.local[n]
            if self._copied(p):
                self.masters[n] = p.detach().to("cpu" if offload else p.device, torch.float32, copy=True)
        self.adam = torch.optim.AdamW(
            [{"params": self._moved()}] if self.own else [{"params": [nn.Parameter(torch.zeros(()))]}],
            lr=1.0,
            betas=(settings["adam_beta1"], settings["adam_beta2"]),
            weight_decay=settings["weight_decay"],
            fused=True,  # one pass over the memory: 8 to 11 ms in place of 53 for the tiny preset on one core
        )

    def _copied(self, p: nn.Parameter) -> bool:
        return self.offload or p.dtype != torch.float32

    def _moved(self) -> list[torch.Tensor]:
        return [self.masters.get(n, self.local[n]) for n in self.own]

    def fresh(self) -> None:
        """Forgets the gradients' moments."""
        self.adam.state.clear()

    def zero(self) -> None:
        for n, p in self.parameters.items():
            p.grad = self.local[n].grad = None

    def step(self, lr: float) -> float:
        """Sums the gradients of all processes, clips, makes a step, and returns the norm that they had; no step if that
        is not finite.
        """
        with self.group.together():
            self._sum()
            norm = self._clip()
            if math.isfinite(norm):
                for group in self.adam.param_groups:
                    group["lr"] = lr
                self.adam.step()
                self._follow()
        for master in self.masters.values():
            master.grad = None
        return norm

    def _sum(self) -> None:
        """Brings each gradient, in float32, to the process that moves the parameter."""
        if self.divided:
            return self._take()
        device = next(iter(self.parameters.values())).device
        there = self.group.any([p.grad is not None for p in self.parameters.values()], device)
        for (n, p), some in zip(self.parameters.items(), there):
            if not some:
                continue
            grad = p.grad
            if self.group.size > 1:
                grad = torch.zeros_like(p, dtype=torch.float32) if grad is None else grad.float().contiguous()
                self.group.reduce(grad, self.owners[n])
                p.grad = grad if p.dtype == torch.float32 else None
            if n in self.masters:
                master = self.masters[n]
                master.grad = grad.to(master.device, torch.float32)
                p.grad = None

    def _take(self) -> None:
        """The same where the backward pass has summed and divided the gradients."""
        for n, p in self.parameters.items():
            if p.grad is not None and n in self.own:
                moved, grad = self.masters.get(n, self.local[n]), sharding.local(p.grad)
                moved.grad = grad.to(moved.device, torch.float32)
            p.grad = None

    def _clip(self) -> float:
        most = self.settings["grad_clip"] or math.inf
        grads = [m.grad for m in self._moved() if m.grad is not None]
        if self.group.size == 1:
            return float(nn.utils.clip_grad_norm_([m for m in self._moved() if m.grad is not None], most))
        device = next(iter(self.parameters.values())).device
        squares = torch.zeros((), dtype=torch.float64, device=device)
        for g in grads:
            squares += torch.linalg.vector_norm(g).double().to(device) ** 2
        norm = float(self.group.total(squares).sqrt())
        for g in grads:
            g.mul_(min(1.0, most / (norm + 1e-6)))  # as torch's clip_grad_norm_
        return norm

    @torch.no_grad()
    def _follow(self) -> None:
        for n, master in self.masters.items():
            self.local[n].copy_(master)
        if not self.divided:
            self.group.spread([p.data for p in self.parameters.values()], list(self.owners.values()))

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """(tensors by name, steps made by parameter) of the parameters that this process moves: with those of the
        others all that `restore` needs.
        """
        tensors, steps = {}, {}
        for n in self.own:
            master = self.masters.get(n, self.local[n])
            if n in self.masters:
                tensors[f"master.{n}"] = master
            if s := self.adam.state.get(master):
                tensors[f"m.{n}"], tensors[f"v.{n}"] = s["exp_avg"], s["exp_avg_sq"]
                steps[n] = float(s["step"])
        return tensors, steps

    @torch.no_grad()
    def gathered(self, steps: dict[str, float]) -> dict[str, torch.Tensor]:
        """The tensors of all processes' states, on rank 0's CPU; empty elsewhere. Every process calls it.

        Args:
            steps: of all of them.
        """
        own, _ = self.state()
        if self.group.size == 1:
            return own
        out = {}
        with self.group.together():
            for n, p in self.parameters.items():
                for kind in ["master"] * self._copied(p) + ["m", "v"] * (n in steps):
                    name = f"{kind}.{n}"
                    tensor = self._brought(n, own.get(name), torch.float32)
                    if tensor is not None:
                        out[name] = tensor
        return out

    def parts(self, values: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
        """Of whole values of the parameters, what is this process's."""
        if values is None or not self.divided:
            return values
        return {n: sharding.cut(self.parameters[n], t).clone() for n, t in values.items()}

    @torch.no_grad()
    def joined(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Values of the parameters, whole on rank 0, of those that each process has. Every process calls it."""
        if not self.divided:
            return values
        with self.group.together():
            brought = {n: self._brought(n, t, t.dtype) for n, t in values.items()}
        return {n: t for n, t in brought.items() if t is not None}

    def _brought(self, n: str, tensor: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
        """What is kept of a parameter, on rank 0's CPU: from the one that has it, or in parts from all; None elsewhere.

        Args:
            tensor: as far as it is here; where it is offloaded, all of it is on the CPU.
        """
        p, rank = self.parameters[n], self.group.rank
        if rank == 0 and (tensor is None or self.divided):
            whole = torch.empty(p.shape, dtype=dtype, device="cpu" if self.offload else p.device)
        else:
            whole = tensor
        if self.divided:
            for r in range(self.group.size):
                some = sharding.rows(p, r, self.group.size)
                if some.start == some.stop:
                    continue
                if rank == r == 0:
                    whole[some].copy_(tensor)
                elif rank in (0, r):
                    self.group.bring(whole[some] if rank == 0 else tensor, r)
        elif whole is not None:
            self.group.bring(whole, self.owners[n])
        return whole.cpu() if rank == 0 else None

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], steps: dict[str, float], own: bool = False) -> None:
        """Takes over this process's part of a state. Where float32 copies are kept now and were not then, they are made
        from the weights.

        Args:
            own: the tensors are this process's parts, as `state` gives them; else they are whole.

        Raises:
            Misfit: a tensor is missing or has another shape; nothing has changed then.
        """
        for n in self.own:
            for kind in ["m", "v"] * (n in steps) + ["master"] * (f"master.{n}" in tensors):
                shape = (self.local if own else self.parameters)[n].shape
                if f"{kind}.{n}" not in tensors:
                    raise Misfit(f"{kind}.{n} is missing")
                if tensors[f"{kind}.{n}"].shape != shape:
                    raise Misfit(f"{kind}.{n} is {list(tensors[f'{kind}.{n}'].shape)}, want {list(shape)}")

        def part(kind: str, n: str) -> torch.Tensor:
            t = tensors[f"{kind}.{n}"]
            return t if own else sharding.cut(self.parameters[n], t)

        for n in self.own:
            p = self.local[n]
            master = self.masters.get(n, p)
            if n in self.masters:
                master.copy_(part("master", n) if f"master.{n}" in tensors else p)
            self.adam.state.pop(master, None)
            if n in steps:
                self.adam.state[master] = {
                    "step": torch.tensor(steps[n], device=master.device),
                    "exp_avg": part("m", n).to(master.device, torch.float32, copy=True),
                    "exp_avg_sq": part("v", n).to(master.device, torch.float32, copy=True),
                }


def _owners(sizes: dict[str, int], processes: int) -> dict[str, int]:
    """The process that moves each parameter: in their order, who has the least so far."""
    load = [0] * processes
    owners = {}
    for n, size in sizes.items():
        owners[n] = load.index(min(load))
        load[owners[n]] += size
    return owners


class Keep:
    """A copy of the weights and the optimiser on the CPU, as far as this process has them, to go back to when an update
    fails.

    Args:
        most: bytes; a larger state is not copied, and `back` then says False.
    """

    def __init__(self, optimiser: Optimiser, most: int):
        tensors, self.steps = optimiser.state()
        tensors.update({f"w.{n}": p.detach() for n, p in optimiser.local.items()})
        self.optimiser = optimiser
        fits = sum(t.numel() * t.element_size() for t in tensors.values()) <= most
        self.tensors = {n: t.to("cpu", copy=True) for n, t in tensors.items()} if fits else None

    @torch.no_grad()
    def back(self) -> bool:
        """Restores what was kept; False when it was too much to be kept."""
        self.optimiser.zero()
        if self.tensors is None:
            return False
        for n, p in self.optimiser.local.items():
            p.copy_(self.tensors[f"w.{n}"])
        self.optimiser.restore(self.tensors, self.steps, own=True)
        return True


class swapped:
    """Within it, parameters hold other values: `starting`'s."""

    def __init__(self, parameters: dict[str, nn.Parameter], values: dict[str, torch.Tensor]):
        self.parameters, self.values = parameters, values

    def __enter__(self) -> None:
        self.own = {}
        for n, p in self.parameters.items():
            if sharding.is_divided(p):  # others read its memory: it has to stay where it is
                self.own[n] = sharding.local(p).clone()
                sharding.local(p).copy_(self.values[n])
            else:
                self.own[n] = p.data
                p.data = self.values[n].to(p.device, p.dtype)

    def __exit__(self, *_) -> None:
        for n, p in self.parameters.items():
            if sharding.is_divided(p):
                sharding.local(p).copy_(self.own[n])
            else:
                p.data = self.own[n]


def starting(parameters: dict[str, nn.Parameter], offload: bool) -> dict[str, torch.Tensor]:
    """A frozen copy of the parameters, as far as this process has them, for the KL term; for an adapter it is the
    adapter alone.
    """
    own = {n: sharding.local(p).detach() for n, p in parameters.items()}
    return {n: p.to("cpu" if offload else p.device, copy=True) for n, p in own.items()}
