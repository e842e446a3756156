"""Timings, one file a question: `python -m benchmarks NAME`."""
