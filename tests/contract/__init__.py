"""The promises of an Executor, asked of the standard library's two and of ours."""
