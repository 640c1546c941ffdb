"""The EDM scheduler of [Karras et al. (2022)](https://huggingface.co/papers/2206.00364) for latents.

Equation, algorithm and table numbers in this file are those of that paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .checks import check_positive
from .hub.mixin import PushToHubMixin


@dataclass
class LatentEDMSchedulerOutput(BaseOutput):
    """
    Output of [`LatentEDMScheduler.step`].

    Args:
        prev_sample (`torch.Tensor` of shape `(batch_size, ...)`):
            The sample that the next network evaluation takes; the generated latents after the last one.
        pred_original_sample (`torch.Tensor` of shape `(batch_size, ...)`):
            The denoised sample `D(x; sigma)` of this evaluation. Use it for previews and guidance.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor | None = None


def initial_std(scheduler: SchedulerMixin) -> float:
    """
    The standard deviation of what sampling starts from: that of data with the noise of the first step,
    `sqrt(sigma_0^2 + sigma_data^2)`, where `sigma_0` includes new noise of a stochastic sampler.

    It departs from line 2 of Algorithm 2, which starts from `N(0, sigma_0^2)` and so leaves the data out. Next to
    `sigma_0 = 80` that makes no difference, but next to 5 samples would be too narrow. `init_noise_sigma` of the
    schedulers of diffusers, `sqrt(sigma_max^2 + 1)`, takes data of deviation 1, and samples would be too wide.

    Args:
        scheduler ([`LatentEDMScheduler`] or any EDM scheduler of diffusers): After `set_timesteps`.

    Returns:
        `float`.

    Raises:
        `ValueError`: for a scheduler that is none of EDM.
    """
    if "sigma_data" not in scheduler.config:
        raise ValueError(
            f"{type(scheduler).__name__} is no scheduler of EDM, whose preconditioning the denoiser is trained with; "
            "take LatentEDMScheduler, EDMDPMSolverMultistepScheduler or EDMEulerScheduler"
        )
    return math.hypot(scheduler.sigmas[0].item(), scheduler.config.sigma_data)


class LatentEDMScheduler(PushToHubMixin, SchedulerMixin, ConfigMixin):
    """
    Heun's second-order stochastic sampler of EDM (Algorithm 2), and the preconditioning and noise levels that its
    network is trained with (Table 1).

    The network `F` itself is free of any scaling: it takes `c_in * x` and `c_noise`, and the scheduler makes the
    denoiser `D(x; sigma) = c_skip * x + c_out * F(c_in * x; c_noise)` (Eq. 7) from what it returns. `N` inference
    steps take `2 * N - 1` network evaluations, hence as many `timesteps`: the last step, to `sigma = 0`, is an Euler
    step.

    Sampling:

    ```python
    scheduler.set_timesteps(20)
    x = torch.randn(batch_size, latent_size, generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        model_output = denoiser(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(model_output, t, x, generator=generator).prev_sample
    ```

    Training, with `latents` of shape `(batch_size, ...)`:

    ```python
    sigma = scheduler.sample_sigmas(len(latents))
    timesteps = scheduler.precondition_noise(sigma)
    noisy = scheduler.add_noise(latents, torch.randn_like(latents), timesteps)
    model_output = denoiser(scheduler.precondition_inputs(noisy, sigma), timesteps)
    denoised = scheduler.precondition_outputs(noisy, model_output, sigma)
    loss = (scheduler.loss_weight(sigma) * (denoised - latents).square().flatten(1).mean(1)).mean()
    ```

    [`~diffusers.EDMEulerScheduler`] and [`~diffusers.EDMDPMSolverMultistepScheduler`] run the same network in the same
    loop: `EDMDPMSolverMultistepScheduler.from_config(scheduler.config)`.

    This model inherits from [`~diffusers.SchedulerMixin`] and [`~diffusers.ConfigMixin`]. Check the superclass
    documentation for the generic methods, such as loading and saving.

    Args:
        sigma_min (`float`, *optional*, defaults to 0.002):
            The lowest noise level of the schedule, above zero.
        sigma_max (`float`, *optional*, defaults to 80.0):
            The highest noise level of the schedule, where sampling starts.
        sigma_data (`float`, *optional*, defaults to 0.5):
            The standard deviation of the latents that the network is trained on.
        rho (`float`, *optional*, defaults to 7.0):
            How far the schedule favours low noise levels (Eq. 5); 1 spaces them evenly.
        num_train_timesteps (`int`, *optional*, defaults to 1000):
            The length of the scheduler. The noise levels of EDM are continuous, so that this sets nothing else here;
            it is a field of every scheduler of diffusers.
        prediction_type (`str`, *optional*, defaults to `"epsilon"`):
            The sign convention of `c_out`, under the name that diffusers gives it. `"epsilon"` is the only one.
        s_churn (`float`, *optional*, defaults to 0.0):
            The amount of noise that is added anew while sampling, over all steps together. 0 makes the sampler
            deterministic given its first noise.
        s_tmin (`float`, *optional*, defaults to 0.0):
            The lowest noise level at which noise is added anew.
        s_tmax (`float`, *optional*):
            The highest noise level at which noise is added anew. There is no upper bound by default.
        s_noise (`float`, *optional*, defaults to 1.0):
            The standard deviation of the noise added anew; slightly more than 1 offsets a network that removes too
            much noise.
        p_mean (`float`, *optional*, defaults to -1.2):
            The mean of `ln(sigma)` in training.
        p_std (`float`, *optional*, defaults to 1.2):
            The standard deviation of `ln(sigma)` in training.

    Raises:
        `ValueError`: If a value lies outside its range, or if `prediction_type` is not `"epsilon"`.
    """

    _compatibles: ClassVar[list[str]] = ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"]
    order = 2

    @register_to_config
    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        rho: float = 7.0,
        num_train_timesteps: int = 1000,
        prediction_type: str = "epsilon",
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float | None = None,
        s_noise: float = 1.0,
        p_mean: float = -1.2,
        p_std: float = 1.2,
    ):
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"Got {sigma_min=} and {sigma_max=}: choose them such that 0 < sigma_min < sigma_max.")
        check_positive(num_train_timesteps=num_train_timesteps)
        for name, value in {"sigma_data": sigma_data, "rho": rho}.items():
            if value <= 0:
                raise ValueError(f"Got {name}={value}: choose a value above 0.")
        for name, value in {"s_churn": s_churn, "s_noise": s_noise, "p_std": p_std}.items():
            if value < 0:
                raise ValueError(f"Got {name}={value}: choose 0 or a value above it.")
        if prediction_type != "epsilon":
            raise ValueError(f'Got {prediction_type=}: only prediction_type="epsilon" is supported.')

        # Set by `set_timesteps`
        self.num_inference_steps = None
        self.sigmas = None
        self.timesteps = None

        self._step_index = None
        self._begin_index = None
        self._prediction = None  # the sample and derivative that the Heun correction of the step takes up again

    @property
    def init_noise_sigma(self) -> float:
        """
        The standard deviation of what sampling starts from, by [`initial_std`].

        Raises:
            `ValueError`: If [`~LatentEDMScheduler.set_timesteps`] was not called.
        """
        self._check_timesteps_are_set()
        return initial_std(self)

    @property
    def step_index(self) -> int | None:
        """The index of the current network evaluation in `timesteps`; `None` before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The index of the first network evaluation in `timesteps`; `None` if not set."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """
        Sets the network evaluation to start from, for sampling that starts from a partly noised sample.

        Args:
            begin_index (`int`, *optional*, defaults to 0):
                An index into `timesteps`, and an even one: step `i` begins at evaluation `2 * i`.
        """
        self._begin_index = begin_index

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """
        Sets the schedule. Call it before each run of the sampling loop.

        It sets `timesteps`, a float32 tensor of shape `(2 * num_inference_steps - 1,)` on `device` with `c_noise` of
        each network evaluation, and `sigmas`, a float64 tensor of shape `(2 * num_inference_steps,)` on the CPU with
        their noise levels and a final 0.

        Args:
            num_inference_steps (`int`):
                The number of Heun steps, at least 1.
            device (`str` or `torch.device`, *optional*, defaults to the CPU):
                The device of `timesteps`.

        Raises:
            `ValueError`: If `num_inference_steps` is less than 1.
        """
        if num_inference_steps < 1:
            raise ValueError(f"Got {num_inference_steps=}: choose at least 1.")
        config = self.config

        # Eq. 5, with ends that are exact whatever the rounding
        ramp = torch.linspace(0, 1, num_inference_steps, dtype=torch.float64)
        max_root, min_root = config.sigma_max ** (1 / config.rho), config.sigma_min ** (1 / config.rho)
        sigma = (max_root + ramp * (min_root - max_root)) ** config.rho
        sigma[-1], sigma[0] = config.sigma_min, config.sigma_max

        # Algorithm 2, lines 3 and 5: gamma depends on the noise level alone, so sigma_hat is known in advance
        churned = (sigma >= config.s_tmin) & (sigma <= (math.inf if config.s_tmax is None else config.s_tmax))
        gamma = min(config.s_churn / num_inference_steps, math.sqrt(2) - 1)
        sigma_hat = torch.where(churned, sigma + gamma * sigma, sigma)

        # Step i evaluates the network at sigma_hat_i (line 7) and, unless it is 0, at sigma_{i+1} (line 10)
        sigma_next = torch.cat([sigma[1:], sigma.new_zeros(1)])
        self.sigmas = torch.stack([sigma_hat, sigma_next], dim=1).flatten()
        self.timesteps = self.precondition_noise(self.sigmas[:-1]).to(torch.float32).to(device)

        self.num_inference_steps = num_inference_steps
        self._step_index = None
        self._begin_index = None

    def scale_model_input(self, sample: torch.Tensor, timestep: float | torch.Tensor) -> torch.Tensor:
        """
        Scales the sample by `c_in` of the current noise level. Call it once or more before each
        [`~LatentEDMScheduler.step`].

        Args:
            sample (`torch.Tensor` of shape `(batch_size, ...)`):
                The current sample.
            timestep (`float` or `torch.Tensor`):
                The current element of `timesteps`.

        Returns:
            `torch.Tensor` of shape `(batch_size, ...)`, in the dtype of `sample`: what the network takes.

        Raises:
            `ValueError`: If [`~LatentEDMScheduler.set_timesteps`] was not called, if `timestep` cannot start a run, or
                if the run is over.
        """
        return self.precondition_inputs(sample, self.sigmas[self._locate(timestep)].item())

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> LatentEDMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """
        Advances the sample by one network evaluation: half a step of Algorithm 2. Even evaluations are Euler
        predictions, odd ones Heun corrections.

        The noise of line 6 is drawn at the end of the step before the one that it belongs to, so that the network sees
        the sample at the noise level of `timestep`. The computation is in float32, or in float64 for a float64 sample.

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, ...)`):
                The output of the network.
            timestep (`float` or `torch.Tensor`):
                The current element of `timesteps`.
            sample (`torch.Tensor` of shape `(batch_size, ...)`):
                The current sample, not scaled.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                The source of new noise, or one for each sample of the batch. Unused where `s_churn` is 0.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a [`LatentEDMSchedulerOutput`] rather than a tuple.

        Returns:
            [`LatentEDMSchedulerOutput`] or `tuple`: The next sample and the denoised sample, both of shape
            `(batch_size, ...)` and in the dtype of `sample`.

        Raises:
            `ValueError`: If [`~LatentEDMScheduler.set_timesteps`] was not called, if `timestep` cannot start a run, or
                if the run is over.
        """
        index = self._locate(timestep)
        dtype = sample.dtype
        sample = sample.to(torch.promote_types(dtype, torch.float32))
        model_output = model_output.to(sample.dtype)

        sigma = self.sigmas[index].item()
        denoised = self.precondition_outputs(sample, model_output, sigma)
        derivative = (sample - denoised) / sigma  # lines 7 and 10

        if index % 2 == 0:
            sigma_hat, sigma_next = self.sigmas[index : index + 2].tolist()
            self._prediction = sample, derivative
            prev_sample = sample + (sigma_next - sigma_hat) * derivative  # line 8
        else:
            sigma_hat, sigma_next, next_sigma_hat = self.sigmas[index - 1 : index + 2].tolist()
            sample_hat, first_derivative = self._prediction
            prev_sample = sample_hat + (sigma_next - sigma_hat) * (first_derivative + derivative) / 2  # line 11
            if next_sigma_hat > sigma_next:
                noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
                prev_sample = prev_sample + self._churn_std(sigma_next, next_sigma_hat) * noise  # line 6

        self._step_index += 1

        prev_sample, denoised = prev_sample.to(dtype), denoised.to(dtype)
        if not return_dict:
            return prev_sample, denoised
        return LatentEDMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=denoised)

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """
        Adds noise at the level of each timestep: `x + sigma * noise` with `sigma = exp(4 * c_noise)`.

        Args:
            original_samples (`torch.Tensor` of shape `(batch_size, ...)`):
                The samples without noise.
            noise (`torch.Tensor` of shape `(batch_size, ...)`):
                Standard normal noise.
            timesteps (`torch.Tensor` of shape `(batch_size,)`):
                `c_noise` of each sample: elements of `timesteps`, or any of
                [`~LatentEDMScheduler.precondition_noise`].

        Returns:
            `torch.Tensor` of shape `(batch_size, ...)`, in the dtype of `original_samples`.
        """
        sigma = _unsqueeze_like((4 * timesteps.to(original_samples.device)).exp(), original_samples)
        return (original_samples + sigma * noise).to(original_samples.dtype)

    def precondition_inputs(self, sample: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """
        Scales noisy samples to unit variance, for the network: `c_in * x` (Table 1).

        Args:
            sample (`torch.Tensor` of shape `(batch_size, ...)`):
                The noisy samples.
            sigma (`float`, or `torch.Tensor` of shape `(batch_size,)`):
                Their noise levels.

        Returns:
            `torch.Tensor` of shape `(batch_size, ...)`.
        """
        sigma = _unsqueeze_like(sigma, sample)
        return sample / (sigma**2 + self.config.sigma_data**2) ** 0.5

    def precondition_noise(self, sigma: float | torch.Tensor) -> torch.Tensor:
        """
        Turns noise levels into the timesteps that the network takes: `c_noise = ln(sigma) / 4` (Table 1).

        Args:
            sigma (`float`, or `torch.Tensor` of any shape):
                The noise levels.

        Returns:
            `torch.Tensor` of the shape of `sigma`.
        """
        return torch.as_tensor(sigma).log() / 4

    def precondition_outputs(
        self, sample: torch.Tensor, model_output: torch.Tensor, sigma: float | torch.Tensor
    ) -> torch.Tensor:
        """
        Turns outputs of the network into denoised samples: `D = c_skip * x + c_out * F` (Eq. 7, Table 1).

        Args:
            sample (`torch.Tensor` of shape `(batch_size, ...)`):
                The noisy samples, not scaled.
            model_output (`torch.Tensor` of shape `(batch_size, ...)`):
                The outputs of the network for them.
            sigma (`float`, or `torch.Tensor` of shape `(batch_size,)`):
                Their noise levels.

        Returns:
            `torch.Tensor` of shape `(batch_size, ...)`.
        """
        sigma = _unsqueeze_like(sigma, sample)
        sigma_data = self.config.sigma_data
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / (sigma**2 + sigma_data**2) ** 0.5
        return c_skip * sample + c_out * model_output

    def sample_sigmas(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
    ) -> torch.Tensor:
        """
        Draws noise levels for training: `ln(sigma) ~ N(p_mean, p_std^2)` (Table 1).

        Args:
            batch_size (`int`):
                How many to draw.
            generator (`torch.Generator`, *optional*):
                The source of randomness.
            device (`str` or `torch.device`, *optional*, defaults to the CPU):
                The device of the result.

        Returns:
            `torch.Tensor` of shape `(batch_size,)`, float32.
        """
        noise = randn_tensor((batch_size,), generator=generator, device=device, dtype=torch.float32)
        return (self.config.p_mean + self.config.p_std * noise).exp()

    def loss_weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """
        The weight of the squared error of `D` in the training loss (Eq. 8, Table 1): `1 / c_out^2`, which makes the
        effective weight of the error of `F` 1 at every noise level.

        Args:
            sigma (`torch.Tensor` of any shape):
                The noise levels.

        Returns:
            `torch.Tensor` of the shape of `sigma`.
        """
        sigma_data = self.config.sigma_data
        return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def _churn_std(self, sigma: float, sigma_hat: float) -> float:
        """The standard deviation of the noise that raises the noise level from sigma to sigma_hat (line 6)."""
        return self.config.s_noise * math.sqrt(sigma_hat**2 - sigma**2)

    def _check_timesteps_are_set(self) -> None:
        if self.num_inference_steps is None:
            raise ValueError("Got num_inference_steps=None: call `set_timesteps(num_inference_steps)` first.")

    def _locate(self, timestep: float | torch.Tensor) -> int:
        """The index of the current evaluation; `timestep` tells it on the first call if `begin_index` does not."""
        self._check_timesteps_are_set()
        if self._step_index is None:
            begin_index = self._begin_index
            if begin_index is None:
                # A noise level that ends one step and starts the next occurs twice; a run starts at the second
                matches = (self.timesteps == float(timestep)).nonzero()
                if len(matches) == 0:
                    raise ValueError(f"Got {timestep=}: pass the elements of `scheduler.timesteps`.")
                begin_index = matches[-1].item()
            if begin_index % 2:
                raise ValueError(f"Got a run that starts at {begin_index=}, amid a step: start at an even index.")
            self._step_index = begin_index
        if self._step_index >= len(self.timesteps):
            raise ValueError(
                f"Got step_index={self._step_index}, but the schedule has {len(self.timesteps)} timesteps: call "
                "`set_timesteps` before another run."
            )
        return self._step_index


def _unsqueeze_like(sigma: float | torch.Tensor, sample: torch.Tensor) -> float | torch.Tensor:
    """Gives sigma of shape `(batch_size,)` the trailing dimensions that it needs to broadcast over the sample."""
    if isinstance(sigma, torch.Tensor) and sigma.ndim:
        sigma = sigma.reshape(-1, *[1] * (sample.ndim - 1))
    return sigma
