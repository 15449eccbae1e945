"""Tiny decoders of Wan's latents (the TAEHV family): their layout, their network, and the graphs made of it."""
