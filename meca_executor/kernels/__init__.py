"""Kernels: stateful code sessions, build-and-run batches and terminals, as processes of the gateway's host."""
