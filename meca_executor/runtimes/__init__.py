"""Where tasks run: worker processes, and containers as local apps."""
