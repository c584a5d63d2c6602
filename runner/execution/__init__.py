"""A plan's checks -> outcomes: batches, leases, launches, reuse and resume."""
