import copy
import math

import pytest
import torch
from diffusers import DiffusionPipeline

from difflm_hf.denoiser import DiffLMDenoiser
from difflm_hf.scheduling_latent_edm import LatentEDMScheduler


EXACT = {"rtol": 0, "atol": 1e-5}

every_architecture = pytest.mark.parametrize("architecture", ["mlp", "transformer"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def tiny_denoiser(architecture="mlp", **fields):
    """A denoiser whose output does not start at 0."""
    model = DiffLMDenoiser(**{"latent_size": 5, "width": 32, "num_layers": 2, **fields}, architecture=architecture)
    torch.nn.init.normal_(model.proj_out.weight, std=0.3)
    return model.eval()


@every_architecture
def test_shapes_and_timesteps(architecture):
    model, sample = tiny_denoiser(architecture), torch.randn(7, 5)
    output = model(sample, 0.3)
    assert output.shape == (7, 5) and output.dtype == torch.float32
    for timestep in torch.tensor(0.3), torch.full((7,), 0.3), torch.tensor([0.3], dtype=torch.float64):
        torch.testing.assert_close(model(sample, timestep), output, **EXACT)
    timesteps = torch.linspace(-1.5, 1.1, 7)
    rows = [model(row[None], timestep) for row, timestep in zip(sample, timesteps)]
    torch.testing.assert_close(model(sample, timesteps), torch.cat(rows), **EXACT)
    assert (model(sample, timesteps) - output).abs().max() > 0.01


@every_architecture
def test_starts_at_zero(architecture):
    model = DiffLMDenoiser(latent_size=5, architecture=architecture, width=32, num_layers=2)
    assert not model(torch.randn(7, 5), 0.3).any()


@every_architecture
def test_every_parameter_learns(architecture):
    model = tiny_denoiser(architecture)
    model(torch.randn(7, 5), torch.randn(7)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


@every_architecture
def test_dimensions_are_told_apart(architecture):
    model = tiny_denoiser(architecture)
    output = model(torch.ones(1, 5), 0.3)[0]
    assert output.std() > 0.001


def test_normalization():
    model = DiffLMDenoiser(latent_size=5)
    latents = torch.randn(1000, 5) * torch.tensor([0.1, 1.0, 2.0, 3.0, 10.0]) + torch.arange(5)
    model.latent_mean.copy_(latents.mean(0))
    model.latent_std.copy_(latents.std(0) / 0.5)
    normalized = model.normalize_latents(latents)
    torch.testing.assert_close(normalized.mean(0), torch.zeros(5), **EXACT)
    torch.testing.assert_close(normalized.std(0), torch.full((5,), 0.5), **EXACT)
    torch.testing.assert_close(model.denormalize_latents(normalized), latents, rtol=1e-5, atol=1e-5)


@every_architecture
def test_save_and_load(tmp_path, architecture):
    model, sample = tiny_denoiser(architecture), torch.randn(7, 5)
    model.latent_mean.normal_()
    model.latent_std.uniform_(0.5, 2)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
    loaded = DiffLMDenoiser.from_pretrained(tmp_path)
    for name in "latent_size", "architecture", "width", "num_layers", "num_heads":
        assert loaded.config[name] == model.config[name]
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    # To the last bit only where weights lie as they did in memory: products depend on it on some processors.
    torch.testing.assert_close(loaded(sample, 0.3), model(sample, 0.3), rtol=1e-5, atol=1e-5)


def test_paths_are_kept_and_not_saved(tmp_path):
    tiny_denoiser().save_pretrained(tmp_path / "one")
    model = DiffLMDenoiser.from_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "two")
    assert model.config["_name_or_path"] == tmp_path / "one"
    assert str(tmp_path) not in (tmp_path / "two" / "config.json").read_text()


@every_architecture
def test_dtypes(architecture):
    model, sample = tiny_denoiser(architecture), torch.randn(7, 5)
    exact = model(sample, 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(sample, 0.3)
    halved = model.to(torch.bfloat16)(sample, 0.3)
    for output in autocast, halved:
        assert output.dtype == torch.float32
        torch.testing.assert_close(output, exact, rtol=0.05, atol=0.05)
    assert model(sample.to(torch.bfloat16), 0.3).dtype == torch.bfloat16


def test_moments_stay_in_float32(tmp_path):
    """In bfloat16, a mean of 10 moves in steps of 0.06."""
    latents = 10 + 0.01 * torch.randn(200, 5)
    model = tiny_denoiser()
    model.latent_mean.copy_(latents.mean(0))
    model.latent_std.copy_(latents.std(0))
    expected = model.normalize_latents(latents)
    model.save_pretrained(tmp_path / "float32")

    class Pipeline(DiffusionPipeline):
        def __init__(self, denoiser):
            super().__init__()
            self.register_modules(denoiser=denoiser)

    for cast in (
        copy.deepcopy(model).to(torch.bfloat16),
        Pipeline(copy.deepcopy(model)).to(torch.bfloat16).denoiser,
        DiffLMDenoiser.from_pretrained(tmp_path / "float32", dtype=torch.bfloat16),
        DiffLMDenoiser.from_pretrained(tmp_path / "float32", dtype=torch.bfloat16, low_cpu_mem_usage=False),
    ):
        assert cast.dtype == torch.bfloat16
        assert (cast.latent_mean.dtype, cast.latent_std.dtype) == (torch.float32, torch.float32)
        torch.testing.assert_close(cast.normalize_latents(latents), expected)
        torch.testing.assert_close(cast.denormalize_latents(expected), latents)
    cast.save_pretrained(tmp_path / "bfloat16")
    loaded = DiffLMDenoiser.from_pretrained(tmp_path / "bfloat16")
    assert torch.equal(loaded.latent_mean, model.latent_mean) and torch.equal(loaded.latent_std, model.latent_std)


def test_unknown_architecture():
    with pytest.raises(ValueError, match="architecture='unet' is neither 'mlp' nor 'transformer'"):
        DiffLMDenoiser(architecture="unet")


@every_architecture
def test_learns_a_gaussian(architecture):
    """Correlated, in two dimensions: the best denoiser is known, and the untrained one knows no correlation."""
    covariance = 0.25 * torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    data = torch.distributions.MultivariateNormal(torch.zeros(2), covariance)
    scheduler = LatentEDMScheduler()
    model = DiffLMDenoiser(latent_size=2, architecture=architecture, width=32, num_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def denoise(noisy, sigmas):
        output = model(scheduler.precondition_inputs(noisy, sigmas), scheduler.precondition_noise(sigmas))
        return scheduler.precondition_outputs(noisy, output, sigmas)

    def error(sigma=0.5, num_samples=2000):
        latents = data.sample((num_samples,))
        noisy = latents + sigma * torch.randn_like(latents)
        best = noisy @ torch.linalg.solve(covariance + sigma**2 * torch.eye(2), covariance)
        return (denoise(noisy, torch.full((num_samples,), sigma)) - best).square().mean().sqrt().item()

    with torch.no_grad():
        before = error()
    for _ in range(100):
        latents, sigmas = data.sample((128,)), scheduler.sample_sigmas(128)
        denoised = denoise(latents + sigmas[:, None] * torch.randn_like(latents), sigmas)
        loss = (scheduler.loss_weight(sigmas) * (denoised - latents).square().mean(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert error() < 0.4 * before
        scheduler.set_timesteps(15)
        samples = torch.randn(2000, 2) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            output = model(scheduler.scale_model_input(samples, timestep), timestep)
            samples = scheduler.step(output, timestep, samples).prev_sample
    assert math.isclose(torch.corrcoef(samples.T)[0, 1], 0.9, abs_tol=0.08)
