"""Shared by policies with torch: PPO on recorded chunks, the optimiser, LoRA, several processes, training state."""
