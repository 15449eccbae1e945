"""Noise, schedules and samplers: from noise to latents."""
