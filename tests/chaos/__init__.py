"""Faults injected on purpose: what must hold however badly things go. `python -m tests.chaos --help`."""
