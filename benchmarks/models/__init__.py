"""
The models of the benchmark, one script each, run in a virtual environment of its own.

A script defines how to fit a table and how to sample from the model; [`harness.run`] reads, times and writes. Scripts
import nothing of this project but the harness, so that an environment holds one model and what it needs.
"""
