"""Where images run: one module an engine, found by name in `runner.backends.base.load`."""
