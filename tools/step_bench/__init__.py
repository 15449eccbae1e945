"""One denoiser step at real size, against peers."""
