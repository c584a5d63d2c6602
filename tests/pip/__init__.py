"""The product's resolutions held against pip's own: see docs/pip-agreement.md."""
