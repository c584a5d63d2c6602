"""The JSON schema of matrix.yaml, for editors."""

from __future__ import annotations

import json

from torch_compat_matrix.runner.matrix.schema import Matrix


def schema() -> str:
    """The schema as published in docs/matrix.schema.json."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "matrix.yaml"}
    return json.dumps({**Matrix.model_json_schema(), **head}, indent=2) + "\n"
