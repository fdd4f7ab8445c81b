"""Kernels for programs on `asyncio`."""
