"""What a matrix costs, compared with what a user would do instead: `python -m benchmarks`."""
