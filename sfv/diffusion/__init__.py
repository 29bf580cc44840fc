"""Diffusion math on tensors: schedules, the masked conditional objective, samplers."""
