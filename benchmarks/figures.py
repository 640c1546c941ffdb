"""
Draws the figures of docs/concepts.md from what small models compute.

    python -m benchmarks.figures [--diffusion-lm FOLDER] [--output docs/images]

A model of six columns of Adult is trained first. The words of Diffusion-LM are drawn where `FOLDER` has
a trained pipeline, as `difflm train --model diffusion-lm` leaves it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle
from sklearn.decomposition import PCA

from difflm_hf import DiffLMPipeline, DiffusionLMPipeline, train
from difflm_hf.control import Between, Condition


TABLE = Path("examples/data/adult_train.parquet")
COLUMNS = ["age", "education", "occupation", "hours-per-week", "fnlwgt", "income"]
CONDITIONS = {
    "age": Between(30, 40),
    "education": ["Masters", "Doctorate"],
    "fnlwgt": Between(100_000, 120_000),
    "income": ">50K",
}
# What is drawn in the first colour is shown in the second by readers who prefer a dark page.
DARK = {
    "#ffffff": "#0d1117",  # paper
    "#1f2328": "#f0f6fc",  # ink
    "#d0d7de": "#3d444d",  # what is in the background
    "#0969da": "#58a6ff",
    "#bc4c00": "#f0883e",
    "#fff8c5": "#3b2e00",  # latents
    "#ddf4ff": "#0c2d6b",  # tokens
}
PAPER, INK, FAINT, BLUE, ORANGE, LATENT, TOKEN = DARK
STYLE = {
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "difflm_hf",  # the same figure is the same file
}


def save(figure: plt.Figure, path: Path) -> None:
    """Writes a figure as SVG that follows the light or dark scheme of its reader."""
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = path.read_text(encoding="utf-8")
    names = {light: f"c{k}" for k, light in enumerate(DARK)}
    for light, name in names.items():
        text = text.replace(light, f"var(--{name})")
    lights, darks = (";".join(f"--{names[k]}:{v}" for k, v in pairs) for pairs in (zip(DARK, DARK), DARK.items()))
    style = f"<style>svg{{{lights}}}@media(prefers-color-scheme:dark){{svg{{{darks}}}}}</style>"
    path.write_text(text.replace("<defs>", f"{style}<defs>", 1), encoding="utf-8")
    print(path)


def canvas(width: float, height: float) -> tuple[plt.Figure, Axes]:
    """An empty figure in which a unit is an inch, from the top left corner."""
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, width: float, text: str, fill: str = PAPER, height: float = 0.36) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor=fill, edgecolor=INK, linewidth=0.8))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK, linewidth=1))


def draw_record(pipe: DiffLMPipeline, table: pd.DataFrame, path: Path) -> None:
    """A record, its tokens, its latent, and records that the decoder writes from that latent."""
    record = table.iloc[[4]]
    batch = pipe.processor(record)
    mean, logvar = pipe.vae.encode(batch["input_ids"], batch.get("attention_mask"))
    latents = mean.detach().repeat(3, 1)
    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand(3, pipe.vae.config.num_uniforms, generator=generator)
    offsets = torch.rand(3, pipe.processor.num_offsets, generator=generator)
    written, _ = pipe.decode_latents(latents, uniforms, offsets)

    figure, axes = canvas(10.4, 4.9)
    width, left = 1.4, 1.9
    for row, (label, values) in enumerate([("a record", record), ("written from z", written)]):
        for k, (_, each) in enumerate(values.iterrows()):
            y = 0.3 if row == 0 else 3.55 + 0.44 * k
            axes.text(left - 0.15, y + 0.18, label if k == 0 else "", ha="right", va="center")
            for column, name in enumerate(COLUMNS):
                box(axes, left + column * width, y, width - 0.08, str(each[name]))
    for column, name in enumerate(COLUMNS):
        axes.text(left + (column + 0.47) * width, 0.15, name, ha="center", va="center", fontsize=9, weight="bold")

    axes.text(left - 0.15, 1.28, "its tokens", ha="right", va="center")
    ids = batch["input_ids"][0, 1 : 1 + pipe.processor.codec.num_fixed].tolist()
    places = [name for name in pipe.processor.codec.tokens] + pipe.processor.codec.binned
    for k, (token, name) in enumerate(zip(ids, places)):
        is_fine = k >= len(pipe.processor.codec.tokens)
        x = left + COLUMNS.index(name) * width + (0.66 if is_fine else 0)
        box(axes, x, 1.1, (0.62 if name in pipe.processor.codec.binned else width - 0.08), str(token), TOKEN)
    arrow(axes, (left + 4.2, 0.7), (left + 4.2, 1.07))
    axes.text(left + 4.35, 0.88, "codec", va="center", fontsize=9, style="italic")

    axes.text(left - 0.15, 2.4, "its latent z", ha="right", va="center")
    deviation = (logvar[0].detach() / 2).exp()
    for k, (mu, sigma) in enumerate(zip(mean[0].tolist(), deviation.tolist())):
        x = left + (k + 0.5) * 6 * width / len(deviation)
        axes.plot([x - 0.4, x + 0.4], [2.4, 2.4], color=FAINT, linewidth=1)
        axes.plot([x, x], [2.4 - 0.25 * (mu - sigma), 2.4 - 0.25 * (mu + sigma)], color=BLUE, linewidth=6)
        axes.plot([x - 0.12, x + 0.12], [2.4 - 0.25 * mu] * 2, color=INK, linewidth=1.5)
    arrow(axes, (left + 4.2, 1.5), (left + 4.2, 1.87))
    axes.text(left + 4.35, 1.68, "encoder", va="center", fontsize=9, style="italic")
    arrow(axes, (left + 4.2, 3.1), (left + 4.2, 3.5))
    axes.text(left + 4.35, 3.3, "injection and causal LM", va="center", fontsize=9, style="italic")
    save(figure, path)


def draw_latents(pipe: DiffLMPipeline, table: pd.DataFrame, path: Path) -> None:
    """Latents while they are denoised, beside those of real records, in the first two principal components."""
    batch = pipe.processor(table.head(1200))
    mean, logvar = pipe.vae.encode(batch["input_ids"], batch.get("attention_mask"))
    drawn = mean + torch.randn(mean.shape, generator=torch.Generator().manual_seed(1)) * (logvar / 2).exp()
    real = pipe.denoiser.normalize_latents(drawn.detach())
    components = PCA(2).fit(real)
    steps = {}

    def keep(pipe, step, timestep, tensors):
        steps[step + 1] = tensors["latents"].clone()
        return {}

    records = pipe(
        250, generator=torch.Generator().manual_seed(0), callback_on_step_end=keep, output_type="pandas"
    ).records
    colours = np.where(records["income"] == ">50K", ORANGE, BLUE)
    shown = [1, 3, 5, 8, len(steps)]
    figure, axes = plt.subplots(1, len(shown), figsize=(12.5, 3))
    for ax, step in zip(axes, shown):
        points, behind = components.transform(steps[step][:250]), components.transform(real[:250])
        limit = 2.8 * points.std()
        ax.scatter(*behind.T, s=5, color=FAINT, linewidths=0)
        ax.scatter(*points.T, s=7, c=colours, linewidths=0)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
        ax.set_title(f"after step {step} of {len(steps)}")
        ax.set_xlabel(f"spread {steps[step].std():.2g}", fontsize=9)
    figure.tight_layout()
    save(figure, path)


def draw_condition(pipe: DiffLMPipeline, path: Path) -> None:
    """The ids that conditions leave of each position of a record."""
    codec = pipe.processor.codec
    allowed = Condition.of_fields(codec, CONDITIONS).allowed
    fields = list(codec.tokens)
    names = [fields[k] for k in codec.position_fields]
    said = {
        "age": "30 to 40",
        "education": "Masters or Doctorate",
        "fnlwgt": "100,000 to 120,000",
        "income": ">50K",
    }
    ids = torch.cat([torch.zeros(1, 1, dtype=torch.long), allowed.ids.T.clone()])
    figure, axes = plt.subplots(figsize=(10.4, 3.6))
    for position, (start, end) in enumerate(codec.position_ranges[: len(names)]):
        shares = np.ones(end - start)
        if allowed.is_known[0, position]:
            shares = np.arange(start, end) == allowed.ids[0, position].item()
        elif (log_shares := allowed.log_shares(position, ids)) is not None:
            shares = log_shares[0].exp().numpy()
        ids[1 + position] = start + int(np.argmax(shares > 0))  # written: the first of what is allowed
        size = 64 / len(shares)
        for k, share in enumerate(shares):
            place, width = (k * size, position), size - min(0.14 * size, 0.4)
            axes.add_patch(Rectangle(place, width, 0.7, color=FAINT, linewidth=0))
            if share:
                axes.add_patch(Rectangle(place, width, 0.7, color=BLUE, alpha=float(share), linewidth=0))
        is_fine = position >= len(fields)
        condition = said.get(names[position], "anything")
        axes.text(-0.8, position + 0.35, names[position] + (", step" if is_fine else ""), ha="right", va="center")
        axes.text(65, position + 0.35, condition, va="center")
    axes.set(xlim=(-14, 82), ylim=(len(names), -0.2))
    axes.axis("off")
    save(figure, path)


def draw_injections(path: Path) -> None:
    """The four ways in which a latent reaches a causal LM."""
    figure, axes = canvas(10.6, 4.3)
    ways = ["soft_prompt", "prefix_soft_prompt", "kv_memory", "input_embed"]
    tokens = ["⟨s⟩", "x₁", "x₂", "x₃"]
    for k, way in enumerate(ways):
        x, y = 0.2 + 5.3 * (k % 2), 0.2 + 2.1 * (k // 2)
        axes.text(x, y, way, weight="bold", va="center", family="monospace")
        axes.add_patch(Rectangle((x, y + 0.2), 5.0, 0.8, facecolor=PAPER, edgecolor=INK, linewidth=0.8))
        axes.text(x + 4.85, y + 0.6, "causal LM", ha="right", va="center", fontsize=9)
        before = {"soft_prompt": ["z₁", "z₂"], "prefix_soft_prompt": ["p₁", "p₂", "z₁", "z₂"]}.get(way, [])
        at = x + 0.1
        if way == "kv_memory":
            for layer in range(2):
                for j in range(2):
                    box(axes, at + 0.5 * j, y + 0.26 + 0.35 * layer, 0.44, f"k,v{'₁₂'[j]}", LATENT, 0.3)
            at += 1.1
        for j, text in enumerate(before + tokens):
            place = at + 0.5 * j
            fill = LATENT if text[0] == "z" else PAPER if text[0] == "p" else TOKEN
            box(axes, place, y + 1.25, 0.44, text, fill)
            if way == "input_embed":
                box(axes, place, y + 1.63, 0.44, "+ z", LATENT, 0.26)
            arrow(axes, (place + 0.22, y + 1.24), (place + 0.22, y + 1.0))
    save(figure, path)


def draw_words(pipe: DiffusionLMPipeline, path: Path, num_words: int = 9) -> None:
    """The likeliest word at each place of a text, the darker the surer, step by step."""
    steps = []

    def keep(pipe, step, timestep, tensors):
        probabilities = tensors["logits"][0].softmax(-1)
        steps.append([t.tolist() for t in probabilities.max(-1)])
        return {}

    pipe(
        length=num_words,
        temperature=0.5,
        generator=torch.Generator().manual_seed(5),
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=["logits"],
    )
    shown = [*range(0, len(steps), 3), len(steps) - 1]
    figure, axes = canvas(10.4, 0.42 * len(shown) + 0.4)
    for row, step in enumerate(shown):
        y = 0.3 + 0.42 * row
        axes.text(0.9, y + 0.18, f"step {step + 1}", ha="right", va="center", fontsize=9)
        for k, (probability, token) in enumerate(list(zip(*steps[step]))[1 : num_words + 1]):
            x = 1.1 + 1.02 * k
            word = pipe.tokenizer.convert_ids_to_tokens(token)
            axes.add_patch(Rectangle((x, y), 0.96, 0.36, facecolor=TOKEN, alpha=probability, linewidth=0))
            axes.text(x + 0.48, y + 0.18, word, ha="center", va="center", fontsize=8, alpha=max(0.35, probability))
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diffusion-lm", type=Path, metavar="FOLDER", help="a trained pipeline of Diffusion-LM")
    parser.add_argument("--max-minutes", type=float, help="time to train the model of Adult; what it takes by default")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="the folder of the figures")
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update(STYLE)

    draw_injections(output / "concept-injections.svg")
    if arguments.diffusion_lm:
        pipe = DiffusionLMPipeline.from_pretrained(arguments.diffusion_lm, dtype=torch.float32)
        draw_words(pipe, output / "concept-words.svg")
    table = pd.read_parquet(TABLE)[COLUMNS]
    with tempfile.TemporaryDirectory() as folder:
        train(table, Path(folder) / "model", max_minutes=arguments.max_minutes)
        pipe = DiffLMPipeline.from_pretrained(Path(folder) / "model", dtype=torch.float32)
    draw_record(pipe, table, output / "concept-record.svg")
    draw_latents(pipe, table, output / "concept-latents.svg")
    draw_condition(pipe, output / "concept-condition.svg")


if __name__ == "__main__":
    main()
