"""Where the time of generation goes, and how near it comes to what the machine can do."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from .pipeline_difflm import DiffLMPipeline


# Labels that the pipeline and the model put on what they do, in order
STAGES = {
    "latents": "the denoiser and its scheduler",
    "prefill": "virtual tokens and BOS through the causal LM",
    "step": "one more token through the causal LM",
    "grammar": "what the grammar allows next",
    "head": "logits of the allowed ids",
    "sampling": "an id of them",
    "records": "ids to a table",
}
MATRIX_SIZE = 2048


@dataclass
class GenerationProfile:
    """
    What [`profile_generation`] measured.

    Args:
        records_per_second (`float`): Of a whole call, with all threads or the GPU.
        stages (`dict[str, float]`): Share of the time for each stage, of a block computed alone in one thread.
        flops_per_record (`float`): Floating-point operations of matrix products and attention.
        matrix_flops (`float`): Operations a second in a product of two large matrices: the machine's limit.
    """

    records_per_second: float
    stages: dict[str, float]
    flops_per_record: float
    matrix_flops: float

    @property
    def share_of_limit(self) -> float:
        """Records per second, as a share of what they would be if nothing but matrix products took time."""
        return self.records_per_second * self.flops_per_record / self.matrix_flops


def profile_generation(pipe: DiffLMPipeline, num_records: int, **sampling) -> GenerationProfile:
    """
    Measures generation.

    Args:
        pipe ([`DiffLMPipeline`]): The pipeline.
        num_records (`int`): Records to generate for the rate; the stages are those of one block.
        sampling (*optional*): Arguments of the call, such as `num_inference_steps`.

    Returns:
        [`GenerationProfile`]
    """
    generator = torch.Generator().manual_seed(0)
    pipe(1, generator=generator, output_type="pandas", **sampling)  # what is slow the first time
    start = time.perf_counter()
    pipe(num_records, generator=generator, output_type="pandas", **sampling)
    records_per_second = num_records / (time.perf_counter() - start)

    on_gpu = pipe.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    num_threads = torch.get_num_threads()
    matrix_flops = measure_matrix_flops(pipe.vae.dtype, pipe.device)
    torch.set_num_threads(1)
    try:
        with profile(activities=activities) as trace:
            block = pipe.generate_block(0, 0, **sampling)
        with FlopCounterMode(display=False) as counter:
            pipe.generate_block(0, 0, **sampling)
    finally:
        torch.set_num_threads(num_threads)
    times = {}
    for event in trace.key_averages():
        if event.key.startswith("difflm::"):
            times[event.key.removeprefix("difflm::")] = event.device_time_total if on_gpu else event.cpu_time_total
    total = sum(times.values())
    stages = {name: times[name] / total for name in STAGES if name in times}
    return GenerationProfile(records_per_second, stages, counter.get_total_flops() / len(block), matrix_flops)


def measure_matrix_flops(dtype: torch.dtype, device: torch.device, min_seconds: float = 0.5) -> float:
    """Floating-point operations per second of a product of two square matrices of `MATRIX_SIZE`, at best."""

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    a, b = torch.randn(2, MATRIX_SIZE, MATRIX_SIZE, dtype=dtype, device=device)
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < min_seconds:
        start = time.perf_counter()
        a @ b
        synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * MATRIX_SIZE**3 / best
