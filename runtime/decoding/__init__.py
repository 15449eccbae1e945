"""From latents to pictures, as a stream."""
