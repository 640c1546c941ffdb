"""How good synthetic tables are: validity and diversity, fidelity, utility, privacy, and plots."""
