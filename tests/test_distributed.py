"""Training by two processes, which is that of one. Each test starts processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config import load_config_from_file
from safetensors.torch import load_file
from test_base_model import save_byte_level_lm
from tiny import make_table
from torch.utils.data import SequentialSampler

from difflm_hf import DiffLMPipeline, distributed
from difflm_hf.distributed import SharedSampler, draw, gather_records, of_first


EXAMPLES = sorted(Path(__file__).parents[1].glob("examples/accelerate/*.yaml"))


# What `accelerate launch` tells of such a configuration
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def run(
    worker: str, *arguments: object, num_processes: int, status: int = 0, **environment: str
) -> subprocess.CompletedProcess:
    """Runs a function of `distributed_workers.py` in several processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    script = Path(__file__).with_name("distributed_workers.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    command = [*launcher, str(script), worker, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == status, done.stderr[-3000:]
    return done


def test_one_process_is_alone():
    assert (distributed.num_processes(), distributed.process_index(), of_first("mine")) == (1, 0, "mine")
    torch.manual_seed(0)
    drawn = draw(torch.rand, 3, 2)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3, 2)) and gather_records(drawn) is drawn


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_batches_are_those_of_one_process(num_processes, monkeypatch):
    monkeypatch.setattr(distributed, "num_processes", lambda: num_processes)
    order = list(SharedSampler(SequentialSampler(range(24)), batch_size=4))
    assert sorted(order) == list(range(24))
    batches = [order[start : start + 4] for start in range(0, 24, 4)]
    for start in range(0, 24 // 4, num_processes):  # accelerate hands batches out in turn
        of_all = [record for records in zip(*batches[start : start + num_processes]) for record in records]
        assert of_all == list(range(4 * start, 4 * (start + num_processes)))


@pytest.mark.slow
def test_losses_are_those_of_one_process(tmp_path):
    losses = []
    for num_processes, environment in ((1, {}), (2, {}), (2, FSDP)):
        path = tmp_path / f"{len(losses)}.json"
        run("losses", path, num_processes=num_processes, **environment)
        losses.append(json.loads(path.read_text()))
    for phase in ("vae", "posterior", "denoiser", "diffusion_lm"):
        one, two, sharded = (torch.tensor(of[phase]) for of in losses)
        assert len(one.unique()) == 50
        torch.testing.assert_close(two, one, rtol=0, atol=1e-4)
        torch.testing.assert_close(sharded, one, rtol=0, atol=1e-4)
    assert [of["share"] for of in losses] == [1, 1, pytest.approx(0.5, abs=0.02)]


@pytest.mark.slow
def test_a_run_of_two_processes(tmp_path):
    done = run("train", tmp_path / "model", tmp_path / "seen.json", num_processes=2)
    assert "Traceback" not in done.stderr
    pipe = DiffLMPipeline.from_pretrained(tmp_path / "model")
    assert len(pipe(5).records) == 5 and pipe.config.training["hardware"]["num_processes"] == 2
    # Both made the same steps to the same weights, and one of them wrote.
    one, two = (json.loads(Path(f"{tmp_path}/seen.json.{rank}").read_text()) for rank in range(2))
    assert one == two
    assert len(list((tmp_path / "model/logs/vae").iterdir())) == 1
    for phase in ("vae", "denoiser"):
        folder = tmp_path / "model/checkpoints" / phase
        assert len(list(folder.glob("checkpoint-*"))) == 1 and (folder / "best").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["scratch", "lora"])
def test_a_run_in_shards(tuning, tmp_path):
    """Cut off and resumed, it comes to the weights of one without shards."""
    base = tmp_path / "base" if tuning == "lora" else ""
    if base:
        save_byte_level_lm(base)
    run("documents", tmp_path / "whole", base, num_processes=2)
    run("documents", tmp_path / "shards", base, 19, num_processes=2, status=1, **FSDP)
    assert list((tmp_path / "shards/checkpoints/vae").glob("checkpoint-*"))
    done = run("documents", tmp_path / "shards", base, num_processes=2, **FSDP)
    assert "Traceback" not in done.stderr
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.safetensors"))
    assert len(files) == 8  # of both phases: model, the best one, and that of a checkpoint; and averages
    for file in files:
        one, two = (load_file(tmp_path / name / file) for name in ("whole", "shards"))
        torch.testing.assert_close(two, one, rtol=0, atol=1e-3)
    # Whoever reads checkpoints need not know of shards.
    assert torch.load(next((tmp_path / "shards").rglob("optimizer.pt")), weights_only=True)["state"]
    assert len(DiffLMPipeline.from_pretrained(tmp_path / "shards")(3).records) == 3


@pytest.mark.slow
def test_options_of_fsdp_that_are_not_taken(tmp_path):
    done = run(
        "train", tmp_path / "model", tmp_path / "seen.json", num_processes=2, status=1, **FSDP | {"FSDP_VERSION": "1"}
    )
    assert "fsdp_version='1' of the FSDP configuration is not '2'; set it to that" in done.stderr
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_time_is_up_for_all_at_once(tmp_path):
    run("train", tmp_path / "model", tmp_path / "seen.json", 0.05, num_processes=2)
    one, two = (json.loads(Path(f"{tmp_path}/seen.json.{rank}").read_text()) for rank in range(2))
    assert one == two and one["steps"]["vae"] < 4000


@pytest.mark.slow
def test_an_error_of_the_first_process_ends_all(tmp_path):
    (tmp_path / "mine.txt").touch()
    done = run("train", tmp_path, tmp_path / "seen.json", num_processes=2, status=1)
    assert "is not empty; choose another folder" in done.stderr


@pytest.mark.slow
def test_latents_are_those_of_one_process(tmp_path):
    run("latents", tmp_path / "one.pt", num_processes=1)
    run("latents", tmp_path / "two.pt", num_processes=2)
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert len(one) == 37
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_command(tmp_path):
    make_table(200).to_csv(tmp_path / "table.csv", index=False)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "difflm_hf", "train", "table.csv", "--output-dir", "model", "--max-minutes", "0.05", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*launcher, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["folder"] == "model" and done.stderr.count("saved in model") == 1
    assert DiffLMPipeline.from_pretrained(tmp_path / "model").config.training["hardware"]["num_processes"] == 2


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_configurations_are_those_of_accelerate(path):
    config = load_config_from_file(str(path))
    assert config.distributed_type in ("MULTI_GPU", "FSDP") and config.num_processes > 1
    if config.distributed_type == "FSDP":
        given = {name.upper(): str(value).lower() for name, value in config.fsdp_config.items()}
        assert given == distributed.FSDP_OPTIONS
