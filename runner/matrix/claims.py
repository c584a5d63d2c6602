"""claims.yaml: statements about images and libraries, and the outcomes that make them true or false."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from torch_compat_matrix.runner.matrix.document import Document, MatrixError, read
from torch_compat_matrix.runner.matrix.entries import Entry
from torch_compat_matrix.runner.matrix.explain import validated
from torch_compat_matrix.runner.matrix.values import Pattern, Selection


class Condition(Entry):
    """A condition of a claim, of exactly one kind: `exists`, `expects` or `checks`."""

    exists: str | None = Field(None, description="the image whose tag must exist")
    expects: Selection | None = Field(
        None, description="selector of expectations (image/expects/what): all must be met"
    )
    checks: Selection | None = Field(
        None, description="selector of checks: all must pass, unless `metric` or a note decides"
    )
    metric: str | None = Field(None, description="name of a metric of the checks, whose bounds decide")
    at_least: float | None = None
    at_most: float | None = None
    true_note: Pattern | None = Field(
        None, description="regular expression: a note of the checks that confirms the claim"
    )
    false_note: Pattern | None = Field(
        None, description="regular expression: a note of the checks that refutes the claim"
    )
    anywhere: bool = Field(False, description="a stand-in counts too: the claim is not about an image")
    gpu: bool = Field(False, description="only an outcome on a GPU counts")

    @model_validator(mode="after")
    def _one_kind(self) -> Condition:
        if sum(value is not None for value in (self.exists, self.expects, self.checks)) != 1:
            raise ValueError("name exactly one of `exists`, `expects` and `checks`")
        bounded = self.at_least is not None or self.at_most is not None
        if bounded != (self.metric is not None):
            raise ValueError("`metric` needs `at_least` or `at_most`, and these need `metric`")
        if not self.checks and (self.metric or self.true_note or self.false_note):
            raise ValueError("`metric` and notes belong to checks: give `checks`")
        return self


class Claim(Entry):
    """A claim and all that must hold for it."""

    id: str
    source: str = Field(description="the source of the claim")
    says: str
    holds_if: list[Condition] = Field(description="all of these conditions; without any, no run can judge the claim")
    remark: str | None = Field(None, description="a remark for the reader, beside the verdict")


class Claims(Entry):
    """The whole file."""

    claims: list[Claim]


def load(path: Path) -> tuple[dict[str, Any], ...]:
    """The claims as plain data, in their order; MatrixError with every mistake at once."""
    document: Document = read(path)
    claims = validated(Claims, document).claims
    seen: set[str] = set()
    for index, claim in enumerate(claims):
        if claim.id in seen:
            document.mistake(
                ("claims", index, "id"), f"{claim.id!r} is the id of an earlier claim: give each claim its own id"
            )
        seen.add(claim.id)
    if document.mistakes:
        raise MatrixError(document.mistakes)
    return tuple(claim.model_dump(exclude_defaults=True) for claim in claims)
