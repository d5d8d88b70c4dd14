"""What the policies on lerobot's networks (pi0, pi0-fast) share, on top of `vla`."""
