import json
import math
from functools import partial

import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler

from difflm_hf.scheduling_latent_edm import LatentEDMScheduler, LatentEDMSchedulerOutput, initial_std
from difflm_hf.training.recipes import NOISE_LEVELS, SAMPLER_CONFIG


CHURN = {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}


class GaussianMixture:
    """A mixture in two dimensions, its optimal denoiser, and the network that preconditioning makes of that."""

    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    means = torch.tensor([[-0.8, 0.0], [0.4, 0.7], [0.5, -0.6]], dtype=torch.float64)
    covariances = torch.tensor(
        [[[0.02, 0.01], [0.01, 0.03]], [[0.01, 0.0], [0.0, 0.04]], [[0.03, -0.02], [-0.02, 0.02]]], dtype=torch.float64
    )
    sigma_data = 0.5

    def responsibilities(self, x, sigma=0.0):
        normal = torch.distributions.MultivariateNormal(
            self.means, self.covariances + sigma**2 * torch.eye(2, dtype=torch.float64)
        )
        return (self.weights.log() + normal.log_prob(x[:, None])).softmax(dim=-1)

    def denoise(self, x, sigma):
        """E[y | y + sigma * n = x]: the posterior mean of each component, weighted by its responsibility."""
        noisy_covariances = self.covariances + sigma**2 * torch.eye(2, dtype=torch.float64)
        gains = self.covariances @ torch.linalg.inv(noisy_covariances)
        component_means = self.means + torch.einsum("kij,bkj->bki", gains, x[:, None] - self.means)
        return (self.responsibilities(x, sigma)[..., None] * component_means).sum(dim=1)

    def network(self, scaled, timestep):
        """F = (D - c_skip * x) / c_out, of c_in * x and c_noise."""
        sigma, sigma_data = math.exp(4 * float(timestep)), self.sigma_data
        norm = math.sqrt(sigma**2 + sigma_data**2)
        x = scaled * norm
        return (self.denoise(x, sigma) - (sigma_data / norm) ** 2 * x) * norm / (sigma * sigma_data)

    def sample(self, num_samples, generator):
        components = torch.multinomial(self.weights, num_samples, replacement=True, generator=generator)
        noise = torch.randn(num_samples, 2, generator=generator, dtype=torch.float64)
        factors = torch.linalg.cholesky(self.covariances)[components]
        return self.means[components] + torch.einsum("bij,bj->bi", factors, noise)


mixture = GaussianMixture()


def run(scheduler, x, network=mixture.network, generator=None):
    """The loop of every pipeline, after `set_timesteps`."""
    for t in scheduler.timesteps:
        model_output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(model_output, t, x, generator=generator).prev_sample
    return x


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sample_mixture(scheduler, num_inference_steps, num_samples=20_000):
    scheduler.set_timesteps(num_inference_steps)
    x = scheduler.init_noise_sigma * normal(num_samples, 2)
    return run(scheduler, x, generator=torch.Generator().manual_seed(1))


# Algorithm 2


def algorithm_2(denoise, x, draw_noise, num_steps, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
    """Algorithm 2 of Karras et al. (2022) line by line, given an x that contains the new noise of the first step."""
    rho, sigma_min, sigma_max = 7.0, 0.002, 80.0
    levels = [sigma_max]
    for i in range(1, num_steps):
        ratio = i / (num_steps - 1)
        levels.append((sigma_max ** (1 / rho) + ratio * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho)
    levels.append(0.0)

    for i in range(num_steps):
        gamma = min(s_churn / num_steps, math.sqrt(2) - 1) if s_tmin <= levels[i] <= s_tmax else 0.0
        noise = s_noise * draw_noise() if i > 0 and gamma > 0 else 0.0
        t_hat = levels[i] + gamma * levels[i]
        x_hat = x + math.sqrt(t_hat**2 - levels[i] ** 2) * noise
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (levels[i + 1] - t_hat) * d
        if levels[i + 1] != 0:
            d_next = (x - denoise(x, levels[i + 1])) / levels[i + 1]
            x = x_hat + (levels[i + 1] - t_hat) * (d / 2 + d_next / 2)
    return x


@pytest.mark.parametrize("num_inference_steps", [1, 2, 18])
@pytest.mark.parametrize("churn", [{}, {"s_churn": 5.0}, {"s_churn": 1e3, "s_noise": 1.01}, CHURN])
def test_step_is_algorithm_2(num_inference_steps, churn):
    scheduler = LatentEDMScheduler(**churn)
    scheduler.set_timesteps(num_inference_steps)
    assert len(scheduler.timesteps) == 2 * num_inference_steps - 1
    x = scheduler.init_noise_sigma * normal(64, 2)

    generator = torch.Generator().manual_seed(1)
    expected = algorithm_2(
        rounded_denoise,
        x,
        lambda: torch.randn(64, 2, generator=generator, dtype=torch.float64),
        num_inference_steps,
        **churn,
    )
    actual = run(scheduler, x, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)
    assert scheduler.step_index == len(scheduler.timesteps)


def rounded_denoise(x, sigma):
    """D as the scheduler makes it, where the network sees sigma through a float32 timestep and c_in exactly."""
    sigma_data = mixture.sigma_data
    norm = math.sqrt(sigma**2 + sigma_data**2)
    model_output = mixture.network(x / norm, torch.tensor(math.log(sigma) / 4, dtype=torch.float32))
    return (sigma_data / norm) ** 2 * x + sigma * sigma_data / norm * model_output


def test_timesteps_are_the_noise_levels_that_the_network_sees():
    scheduler = LatentEDMScheduler(**CHURN)
    scheduler.set_timesteps(18)
    ratio = 1 + min(CHURN["s_churn"] / 18, math.sqrt(2) - 1)
    sigmas = scheduler.sigmas
    assert sigmas.shape == (36,)
    assert sigmas[0] == 80.0  # above s_tmax: no new noise
    assert sigmas[-2] == 0.002  # below s_tmin
    assert sigmas[-1] == 0.0
    for corrected, churned in zip(sigmas[1:-1:2], sigmas[2::2], strict=True):
        expected = ratio if CHURN["s_tmin"] <= corrected <= CHURN["s_tmax"] else 1.0
        assert churned / corrected == pytest.approx(expected)
    assert scheduler.timesteps.dtype == torch.float32
    torch.testing.assert_close(scheduler.timesteps, (sigmas[:-1].log() / 4).float())


@pytest.mark.parametrize(("s_tmin", "s_tmax"), [(0.002, 80.0), (0.0, None)])
def test_churn_bounds_include_the_ends_of_the_schedule(s_tmin, s_tmax):
    scheduler = LatentEDMScheduler(s_churn=1.0, s_tmin=s_tmin, s_tmax=s_tmax)
    scheduler.set_timesteps(10)
    torch.testing.assert_close(scheduler.sigmas[2:-1:2], 1.1 * scheduler.sigmas[1:-1:2])
    assert scheduler.sigmas[0] == pytest.approx(88.0)


@pytest.mark.parametrize("make", [LatentEDMScheduler, EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
def test_sampling_starts_from_noisy_data(make):
    scheduler = make(sigma_max=17.0, sigma_data=0.7)
    scheduler.set_timesteps(7)
    assert initial_std(scheduler) == pytest.approx(math.hypot(17.0, 0.7))


def test_new_noise_of_the_first_step_is_there_from_the_start():
    scheduler = LatentEDMScheduler(sigma_max=5.0, s_churn=2.0, s_noise=1.007)
    scheduler.set_timesteps(10)
    assert scheduler.init_noise_sigma == initial_std(scheduler) == pytest.approx(math.hypot(1.2 * 5.0, 0.5))


def test_heun_is_of_second_order():
    scheduler = LatentEDMScheduler(sigma_max=5.0)
    x = scheduler.config.sigma_max * normal(256, 2)

    def solve(num_intervals):
        scheduler.set_timesteps(num_intervals + 1)
        return run(scheduler, x)

    fine = solve(1024)
    errors = [(solve(n) - fine).square().mean().sqrt().item() for n in (64, 128, 256)]
    assert [errors[i] / errors[i + 1] for i in range(2)] == pytest.approx([4.0, 4.0], rel=0.1)


# Samples of a known distribution


@pytest.mark.parametrize(
    ("make", "num_inference_steps"),
    [
        (LatentEDMScheduler, 64),
        pytest.param(lambda: LatentEDMScheduler(s_churn=20.0), 128, marks=pytest.mark.slow),
        pytest.param(lambda: EDMEulerScheduler.from_config(LatentEDMScheduler().config), 256, marks=pytest.mark.slow),
        (lambda: EDMDPMSolverMultistepScheduler.from_config(LatentEDMScheduler().config), 128),
    ],
    ids=["heun", "stochastic heun", "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"],
)
def test_samples_match_the_mixture(make, num_inference_steps):
    samples = sample_mixture(make(), num_inference_steps)
    components = mixture.responsibilities(samples).argmax(dim=-1)
    for k in range(3):
        members = samples[components == k]
        assert len(members) / len(samples) == pytest.approx(mixture.weights[k].item(), abs=0.01)
        torch.testing.assert_close(members.mean(dim=0), mixture.means[k], rtol=0, atol=0.01)
        torch.testing.assert_close(members.T.cov(), mixture.covariances[k], rtol=0, atol=0.003)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "num_inference_steps", "tolerance"),
    [
        (partial(EDMDPMSolverMultistepScheduler, **SAMPLER_CONFIG), 12, 0.01),  # as `train` sets it
        (partial(EDMDPMSolverMultistepScheduler, **SAMPLER_CONFIG), 50, 0.002),
        (partial(EDMDPMSolverMultistepScheduler, solver_order=2), 50, 0.002),
        (EDMEulerScheduler, 1000, 0.003),
        (LatentEDMScheduler, 50, 0.002),
        (partial(LatentEDMScheduler, s_churn=10.0), 200, 0.003),
    ],
)
def test_spread_of_a_gaussian(make, num_inference_steps, tolerance):
    """At the noise levels of `train`, at which it matters what sampling starts from."""
    sigma_data = 0.5
    scheduler = make(**NOISE_LEVELS, sigma_data=sigma_data)
    scheduler.set_timesteps(num_inference_steps)
    x = normal(100_000)
    samples = run(
        scheduler,
        x / x.std() * initial_std(scheduler),
        network=lambda scaled, timestep: torch.zeros_like(scaled),  # which makes the denoiser of N(0, sigma_data^2)
        generator=torch.Generator().manual_seed(1),
    )
    assert samples.std() / sigma_data == pytest.approx(1, abs=tolerance)


# The scheduler as a state machine


def test_run_may_start_at_any_step():
    scheduler = LatentEDMScheduler()
    scheduler.set_timesteps(8)
    x, trajectory = scheduler.init_noise_sigma * normal(4, 3, 2), []
    for t in scheduler.timesteps:
        trajectory.append(x)
        x = scheduler.step(scheduler.scale_model_input(x, t).sin(), t, x).prev_sample

    for begin_index in (None, 6):
        scheduler.set_timesteps(8)
        if begin_index is not None:
            scheduler.set_begin_index(begin_index)
        assert scheduler.begin_index == begin_index
        assert scheduler.step_index is None
        resumed = trajectory[6]
        for t in scheduler.timesteps[6:]:
            resumed = scheduler.step(scheduler.scale_model_input(resumed, t).sin(), t, resumed).prev_sample
        assert torch.equal(resumed, x)


def test_step_output():
    scheduler = LatentEDMScheduler()
    scheduler.set_timesteps(3)
    x = scheduler.init_noise_sigma * normal(4, 2)
    t = scheduler.timesteps[0]
    output = scheduler.step(mixture.network(scheduler.scale_model_input(x, t), t), t, x)
    assert isinstance(output, LatentEDMSchedulerOutput)
    torch.testing.assert_close(output.pred_original_sample, mixture.denoise(x, 80.0), rtol=1e-4, atol=1e-4)

    scheduler.set_timesteps(3)
    output_tuple = scheduler.step(mixture.network(scheduler.scale_model_input(x, t), t), t, x, return_dict=False)
    assert torch.equal(output_tuple[0], output.prev_sample)
    assert torch.equal(output_tuple[1], output.pred_original_sample)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sample_keeps_its_dtype(dtype):
    scheduler = LatentEDMScheduler(s_churn=10.0)
    scheduler.set_timesteps(6)
    x = (scheduler.init_noise_sigma * normal(5, 3, 2)).to(dtype)
    t = scheduler.timesteps[0]
    scaled = scheduler.scale_model_input(x, t)
    output = scheduler.step(scaled.bfloat16(), t, x)
    assert scaled.dtype == output.prev_sample.dtype == output.pred_original_sample.dtype == dtype


def test_half_precision_sample_is_advanced_in_float32():
    x = (80.0 * normal(32, 2)).bfloat16()
    outputs = []
    for sample in (x, x.float()):
        scheduler = LatentEDMScheduler()
        scheduler.set_timesteps(6)
        t = scheduler.timesteps[0]
        outputs.append(scheduler.step(x.sin(), t, sample).prev_sample)
    assert torch.equal(outputs[0], outputs[1].bfloat16())


def test_one_generator_per_sample_makes_samples_independent_of_their_batch():
    def sample(seeds):
        scheduler = LatentEDMScheduler(s_churn=20.0)
        scheduler.set_timesteps(8)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = torch.cat([torch.randn(1, 2, generator=g, dtype=torch.float64) for g in generators])
        return run(scheduler, scheduler.init_noise_sigma * x, generator=generators)

    torch.testing.assert_close(sample([5, 6, 7])[1:], sample([6, 7]))


def test_add_noise():
    scheduler = LatentEDMScheduler(s_churn=10.0)
    scheduler.set_timesteps(8)
    x, noise = normal(3, 4, 2), normal(3, 4, 2, seed=1)
    indices = torch.tensor([0, 4, 14])
    noisy = scheduler.add_noise(x, noise, scheduler.timesteps[indices])
    torch.testing.assert_close(noisy, x + scheduler.sigmas[indices, None, None] * noise, rtol=1e-5, atol=1e-5)
    assert scheduler.add_noise(x.bfloat16(), noise.bfloat16(), scheduler.timesteps[:3]).dtype == torch.bfloat16


# Preconditioning and training


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_preconditioning_gives_unit_variance(sigma_data):
    """Appendix B.6: unit variance of the inputs and targets of F, for data of standard deviation sigma_data."""
    scheduler = LatentEDMScheduler(sigma_data=sigma_data)
    sigma = torch.tensor([0.002, 0.1, 0.5, 1.0, 80.0], dtype=torch.float64)
    one, zero = torch.ones(5, 1, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.float64)
    c_in = scheduler.precondition_inputs(one, sigma).squeeze(1)
    c_skip = scheduler.precondition_outputs(one, zero, sigma).squeeze(1)
    c_out = scheduler.precondition_outputs(zero, one, sigma).squeeze(1)

    unit = torch.ones_like(sigma)
    torch.testing.assert_close(c_in**2 * (sigma_data**2 + sigma**2), unit)
    # the target of F is (y - c_skip * (y + n)) / c_out
    target_variance = ((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma**2) / c_out**2
    torch.testing.assert_close(target_variance, unit)
    torch.testing.assert_close(scheduler.loss_weight(sigma) * c_out**2, unit)


def test_c_skip_amplifies_errors_of_the_network_least():
    """Appendix B.6: c_skip minimises c_out, given unit variance of the targets."""
    scheduler = LatentEDMScheduler()
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for sigma in (0.01, 0.5, 10.0):
        c_skip = scheduler.precondition_outputs(one, zero, sigma)
        c_out = scheduler.precondition_outputs(zero, one, sigma)
        others = c_skip + torch.linspace(-0.1, 0.1, 21, dtype=torch.float64)
        c_out_squared = (1 - others) ** 2 * 0.5**2 + others**2 * sigma**2
        torch.testing.assert_close(c_out_squared.min(), c_out.squeeze() ** 2)


@pytest.mark.parametrize("shape", [(3, 2), (3, 4, 2), (3, 4, 2, 5)])
def test_sigmas_of_a_batch_broadcast(shape):
    scheduler = LatentEDMScheduler()
    sigma = torch.tensor([0.01, 0.5, 20.0], dtype=torch.float64)
    x, model_output = normal(*shape), normal(*shape, seed=1)
    inputs = scheduler.precondition_inputs(x, sigma)
    outputs = scheduler.precondition_outputs(x, model_output, sigma)
    for i in range(3):
        level = sigma[i].item()
        torch.testing.assert_close(inputs[i], scheduler.precondition_inputs(x[i], level))
        torch.testing.assert_close(outputs[i], scheduler.precondition_outputs(x[i], model_output[i], level))


def test_preconditioning_is_that_of_diffusers():
    ours, theirs = LatentEDMScheduler(), EDMEulerScheduler()
    x, model_output = normal(3, 2), normal(3, 2, seed=1)
    for sigma in (0.01, 0.5, 20.0):
        torch.testing.assert_close(ours.precondition_inputs(x, sigma), theirs.precondition_inputs(x, sigma))
        torch.testing.assert_close(
            ours.precondition_outputs(x, model_output, sigma), theirs.precondition_outputs(x, model_output, sigma)
        )
        assert ours.precondition_noise(sigma).item() == theirs.precondition_noise(sigma).item()


def test_training_loss_is_least_for_the_optimal_network():
    scheduler = LatentEDMScheduler()
    generator = torch.Generator().manual_seed(0)
    latents = mixture.sample(2_000, generator)
    noise = torch.randn(2_000, 2, generator=generator, dtype=torch.float64)
    sigma = scheduler.sample_sigmas(2_000, generator=generator)
    timesteps = scheduler.precondition_noise(sigma)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    scaled = scheduler.precondition_inputs(noisy, sigma)
    optimal = torch.cat([mixture.network(scaled[i : i + 1], timesteps[i]) for i in range(len(latents))])

    def loss(model_output):
        denoised = scheduler.precondition_outputs(noisy, model_output, sigma)
        return (scheduler.loss_weight(sigma) * (denoised - latents).square().mean(dim=1)).mean()

    assert all(loss(optimal) < loss(model_output) for model_output in (0.9 * optimal, 1.1 * optimal, optimal + 0.1))


def test_sample_sigmas():
    scheduler = LatentEDMScheduler(p_mean=-0.7, p_std=0.9)
    sigmas = [scheduler.sample_sigmas(20_000, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    assert torch.equal(*sigmas)
    assert sigmas[0].shape == (20_000,)
    assert sigmas[0].dtype == torch.float32
    assert sigmas[0].log().mean().item() == pytest.approx(-0.7, abs=0.03)
    assert sigmas[0].log().std().item() == pytest.approx(0.9, abs=0.03)


# Hugging Face


def test_save_and_load(tmp_path):
    scheduler = LatentEDMScheduler(sigma_max=40.0, sigma_data=1.0, p_mean=-1.0, **CHURN)
    scheduler.save_pretrained(tmp_path)
    loaded = LatentEDMScheduler.from_pretrained(tmp_path)
    keys = [key for key in scheduler.config if not key.startswith("_")]
    assert {key: loaded.config[key] for key in keys} == {key: scheduler.config[key] for key in keys}
    assert len(loaded) == 1000


def test_config_is_strict_json(tmp_path):
    LatentEDMScheduler().save_pretrained(tmp_path)

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((tmp_path / "scheduler_config.json").read_text(), parse_constant=refuse)


@pytest.mark.parametrize("scheduler_class", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
def test_compatible_schedulers_take_and_keep_the_config(scheduler_class):
    ours = LatentEDMScheduler(sigma_min=0.01, sigma_max=40.0, sigma_data=1.0, rho=5.0, s_churn=3.0)
    assert scheduler_class in ours.compatibles
    theirs = scheduler_class.from_config(ours.config)
    ours.set_timesteps(10)
    theirs.set_timesteps(10)
    torch.testing.assert_close(theirs.sigmas[:-1].double(), levels_without_churn(ours), rtol=1e-5, atol=0)
    back = LatentEDMScheduler.from_config(theirs.config)
    for key in ("sigma_min", "sigma_max", "sigma_data", "rho", "s_churn"):
        assert back.config[key] == ours.config[key]


def levels_without_churn(scheduler):
    """The schedule without churn."""
    return torch.cat([torch.tensor([scheduler.config.sigma_max]), scheduler.sigmas[1:-1:2]])


# Errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min=2.0 and sigma_max=1.0"),
        ({"sigma_min": 1.0, "sigma_max": 1.0}, "sigma_min=1.0 and sigma_max=1.0"),
        ({"sigma_min": 0.0}, "sigma_min=0.0"),
        ({"sigma_data": 0.0}, "sigma_data=0.0"),
        ({"rho": -7.0}, "rho=-7.0"),
        ({"s_churn": -1.0}, "s_churn=-1.0"),
        ({"s_noise": -1.0}, "s_noise=-1.0"),
        ({"p_std": -1.0}, "p_std=-1.0"),
        ({"prediction_type": "v_prediction"}, "v_prediction"),
    ],
)
def test_bad_config(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LatentEDMScheduler(**kwargs)


@pytest.mark.parametrize("num_inference_steps", [0, -3])
def test_bad_number_of_steps(num_inference_steps):
    with pytest.raises(ValueError, match=f"num_inference_steps={num_inference_steps}"):
        LatentEDMScheduler().set_timesteps(num_inference_steps)


def test_use_before_set_timesteps():
    scheduler, x = LatentEDMScheduler(), normal(2, 2)
    for use in (
        lambda: scheduler.init_noise_sigma,
        lambda: scheduler.scale_model_input(x, 1.0),
        lambda: scheduler.step(x, 1.0, x),
    ):
        with pytest.raises(ValueError, match="set_timesteps"):
            use()


def test_timestep_that_cannot_start_a_run():
    scheduler, x = LatentEDMScheduler(s_churn=5.0), normal(2, 2)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="timestep=3"):
        scheduler.step(x, 3, x)
    with pytest.raises(ValueError, match="begin_index=3"):
        scheduler.step(x, scheduler.timesteps[3], x)


def test_run_past_the_end():
    scheduler = LatentEDMScheduler()
    scheduler.set_timesteps(4)
    x = run(scheduler, normal(2, 2))
    with pytest.raises(ValueError, match="step_index=7"):
        run(scheduler, x)
