"""Where images run: a module per engine, found by name in `runner.backends.base.connect`."""
