"""CTGAN of SDV."""

from sdv.single_table import CTGANSynthesizer

from .sdv_models import run_synthesizer


if __name__ == "__main__":
    run_synthesizer(CTGANSynthesizer)
