"""How the built-in checkpoint is made: VAE first, then text encoder and denoiser together. Needs `edgereel[export]`."""
