"""
Texts about given values of fields. The classifier is taught by texts with their fields.

    python examples/diffusion_lm/semantic_content.py --wanted food=Thai "place=by the river"

Each line of the data has a `text` and its `attributes`, a JSON object.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser

from difflm_hf import DiffusionLMPipeline
from difflm_hf.diffusion_lm.controls import SemanticContent
from difflm_hf.records import read_table


SENTENCES = Path(__file__).parents[1] / "data" / "sentences.jsonl"


@dataclass
class Arguments:
    model: str = field(default="my-diffusion-lm", metadata={"help": "A folder, or the name of a model on the Hub."})
    data: Path = field(default=SENTENCES, metadata={"help": "Texts with their fields, a file of JSON lines."})
    wanted: list[str] = field(default_factory=lambda: ["food=Thai"], metadata={"help": "Pairs of field=value."})
    num_texts: int = field(default=5, metadata={"help": "Texts to write."})
    num_steps: int = field(default=2000, metadata={"help": "Steps of teaching the classifier."})
    scale: float = field(default=6.0, metadata={"help": "How much the guide counts."})
    num_candidates: int = field(default=6, metadata={"help": "Texts of which the best one is shown."})
    num_inference_steps: int = field(default=20, metadata={"help": "Steps of the scheduler."})
    seed: int = field(default=0, metadata={"help": "Seed of the classifier and of the texts."})


def main(args: Arguments) -> None:
    pipe = DiffusionLMPipeline.from_pretrained(args.model)
    generator = torch.Generator().manual_seed(args.seed)
    table = read_table(args.data)
    texts, attributes = table["text"].tolist(), table["attributes"].tolist()
    content = SemanticContent.fit(pipe, texts, attributes, args.num_steps, seed=args.seed)
    guide = content.guide(dict(pair.split("=", 1) for pair in args.wanted), scale=args.scale)
    sampling = {"guides": [guide], "num_candidates": args.num_candidates, "generator": generator}
    print(*pipe(args.num_texts, args.num_inference_steps, **sampling).texts, sep="\n")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
