"""Noise → latents."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from .control.guidance import Guidance, predict_clean
from .scheduling_latent_edm import initial_std
from .step_callbacks import latents_after_step
from .utils import check_cancelled, onload


class DenoisingMixin:
    """What a [`DiffLMPipeline`] does with its `denoiser` and its `scheduler`."""

    _callback_tensor_inputs = ("latents", "clean")
    _interrupt = False

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `pipe._interrupt`: the steps that are left of its block are then left out."""
        return self._interrupt

    @torch.no_grad()
    def generate_latents(
        self,
        num_latents: int,
        num_inference_steps: int = 12,
        generator: torch.Generator | None = None,
        callback_on_step_end: Callable | None = None,
        places: slice | np.ndarray | None = None,
        guidance: Guidance | None = None,
    ) -> torch.Tensor:
        """
        Samples latents z from the denoiser.

        Args:
            num_latents (`int`): Latents to sample.
            num_inference_steps, generator, callback_on_step_end: As in the call.
            places (`slice` or `np.ndarray`, *optional*):
                Return those at these places alone, and do not compute the others where none depends on them.
            guidance ([`Guidance`], *optional*): What is known of the records, and guides.

        Returns:
            `torch.Tensor` of shape `(num_latents, latent_size)`, float32, on the device of the denoiser.
        """
        device = onload(self.denoiser).device
        noise = randn_tensor((num_latents, self.denoiser.config.latent_size), generator=generator, device=device)
        guidance = guidance or Guidance()
        if places is None:
            return self._denoise(noise, num_inference_steps, generator, guidance, callback_on_step_end)
        if callback_on_step_end is None:
            before = generator.get_state()
            latents = self._denoise(noise[places], num_inference_steps, generator, guidance)
            if torch.equal(generator.get_state(), before):
                return latents
            generator.set_state(before)  # the scheduler draws noise of its own, for all of a block at once
        guidance = guidance.spread(num_latents, places)
        return self._denoise(noise, num_inference_steps, generator, guidance, callback_on_step_end)[places]

    def _denoise(
        self,
        noise: torch.Tensor,
        num_inference_steps: int,
        generator: torch.Generator | None,
        guidance: Guidance,
        callback_on_step_end: Callable | None = None,
    ) -> torch.Tensor:
        # A schedule of its own for each block, as blocks run side by side; callbacks, for which they do not, see it.
        scheduler = self.scheduler if callback_on_step_end is not None else copy.deepcopy(self.scheduler)
        # Components may be on different devices, and `self.device` is that of one of them.
        scheduler.set_timesteps(int(num_inference_steps), device=self.denoiser.device)
        latents = noise * initial_std(scheduler)
        self._interrupt = False
        for step, timestep in enumerate(scheduler.timesteps):
            check_cancelled()
            noisy, output = latents, guidance.predict(self.denoiser, scheduler, latents, timestep, step)
            latents = scheduler.step(output, timestep, latents, generator=generator).prev_sample
            if callback_on_step_end is not None:
                shown = {"latents": latents, "clean": predict_clean(scheduler, noisy, output, timestep)}
                latents = latents_after_step(callback_on_step_end, self, step, timestep, shown)
                if self.interrupt:
                    break
        if not latents.isfinite().all():
            raise ValueError("latents are not finite: a guide, a callback or the weights go too far")
        return self.denoiser.denormalize_latents(latents)

    @torch.no_grad()
    def renoise_latents(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        strength: float,
        num_inference_steps: int = 12,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """
        Brings latents to an intermediate noise level, and back.

        Args:
            latents, noise (`torch.Tensor` of shape `(num_latents, latent_size)`): Latents z, and normal noise.
            strength (`float`): The share of the scheduler's steps that are taken back, in 0 to 1.
            num_inference_steps, generator: As in the call.

        Returns:
            `torch.Tensor` of shape `(num_latents, latent_size)`.
        """
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(int(num_inference_steps), device=onload(self.denoiser).device)
        num_evaluations = len(scheduler.timesteps)
        first = num_evaluations - round(num_evaluations * strength)
        if first == num_evaluations:
            return latents.to(self.denoiser.device)
        first -= first % scheduler.order  # the first evaluation of its step
        scheduler.set_begin_index(first)
        noisy = self.denoiser.normalize_latents(latents.to(self.denoiser.device))
        noisy = noisy + scheduler.sigmas[first] * noise.to(self.denoiser.device)
        for timestep in scheduler.timesteps[first:]:
            output = self.denoiser(scheduler.scale_model_input(noisy, timestep), timestep)
            noisy = scheduler.step(output, timestep, noisy, generator=generator).prev_sample
        return self.denoiser.denormalize_latents(noisy)

    @torch.no_grad()
    def latent_log_prob(self, latents: torch.Tensor, num_inference_steps: int = 40) -> torch.Tensor:
        """
        log p(z) under the denoiser, in nats: the log-density of the noise that the probability flow ODE makes of z,
        and by how much volume changes on the way (arXiv 2011.13456, eq. 39). The trace of the Jacobian is exact, which
        takes `latent_size` backward passes for each evaluation of the denoiser.

        Args:
            latents (`torch.Tensor` of shape `(num_latents, latent_size)`): Latents z.
            num_inference_steps (`int`, defaults to 40): Steps of Heun's method, from the least noise to the most.

        Returns:
            `torch.Tensor` of shape `(num_latents,)`, float32, on the device of the denoiser.
        """
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(int(num_inference_steps) + 1, device=onload(self.denoiser).device)
        sigmas = sorted({sigma for sigma in scheduler.sigmas.tolist() if sigma > 0})
        sample = self.denoiser.normalize_latents(latents.to(self.denoiser.device))

        def slope(sample: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
            """(z − D(z; σ)) / σ (arXiv 2206.00364, eq. 3), and its divergence."""
            with torch.enable_grad():
                noisy = sample.detach().requires_grad_()
                timestep = scheduler.precondition_noise(torch.tensor(sigma))
                output = self.denoiser(scheduler.precondition_inputs(noisy, sigma), timestep)
                slopes = (noisy - scheduler.precondition_outputs(noisy, output, sigma)) / sigma
                # Records do not depend on each other: the gradient of the sum holds a row of each one's Jacobian.
                divergence = sum(
                    torch.autograd.grad(part.sum(), noisy, retain_graph=True)[0][:, index]
                    for index, part in enumerate(slopes.unbind(1))
                )
            return slopes.detach(), divergence

        volume = torch.zeros(len(sample), device=sample.device)
        for sigma, above in zip(sigmas, sigmas[1:]):
            first, first_volume = slope(sample, sigma)
            second, second_volume = slope(sample + (above - sigma) * first, above)
            sample = sample + (above - sigma) * (first + second) / 2
            volume += (above - sigma) * (first_volume + second_volume) / 2
        noise = torch.distributions.Normal(0, initial_std(scheduler))
        scale = self.denoiser.latent_std.log().sum()
        return noise.log_prob(sample).sum(1) + volume - scale
