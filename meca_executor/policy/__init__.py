"""Decisions without I/O: when to retry, how much to hand over, how to cut batches."""
