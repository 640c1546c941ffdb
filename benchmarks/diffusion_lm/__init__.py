"""Benchmarks of Diffusion-LM: `python -m benchmarks.diffusion_lm`."""
