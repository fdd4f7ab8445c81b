"""The test suite: `unit` (no I/O), `contract` (one suite, every implementation), `integration` (real processes)."""
