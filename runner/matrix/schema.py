"""A whole matrix.yaml as a pydantic model, from which docs/matrix.schema.json is made, and as the runner's nouns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, PrivateAttr

from torch_compat_matrix.runner import model
from torch_compat_matrix.runner.bundle import Catalogue, catalogue
from torch_compat_matrix.runner.matrix.document import Document
from torch_compat_matrix.runner.matrix.entries import (
    CommandEntry,
    Commands,
    Defaults,
    Entry,
    ExcludeEntry,
    ImageEntry,
    Included,
    IncludeEntry,
    KnownEntry,
    LibraryEntries,
    LibraryEntry,
    LimitsEntry,
    StackEntry,
    TargetEntry,
)
from torch_compat_matrix.runner.matrix.values import Name, ProbeOrFolder, Selection, is_folder
from torch_compat_matrix.runner.model import PROBES, Install, Limits, Local, Numerics, Pull


class Matrix(Entry):
    """Images x library versions, with their known issues."""

    limits: LimitsEntry = LimitsEntry()
    probes_: list[ProbeOrFolder] = Field(
        [],
        alias="probes",
        description="probes to run, unless a library says otherwise (none here: all of them), and folders of probe "
        "modules of your own: ./NAME",
    )
    install: Install = Field(
        "constrained",
        description="constrained: what fits beside the image's packages; plain: what `pip install` does, which may "
        "replace some of them, torch among them",
    )
    numerics: Numerics = Field(
        "noted",
        description="noted: a check whose numbers differ from those of its last pass has a note; strict: it fails as "
        "`wrong-value`",
    )
    pull: Pull = Field("missing", description="missing: where the engine lacks the image; always: at each run")
    commands: Commands = Field({}, description="checks of every image, by a command in it")
    images: dict[Name, ImageEntry] = Field(min_length=1)
    libraries: dict[Name, LibraryEntries] = Field({}, description="libraries by the name of their distribution")
    stacks: dict[Name, StackEntry] = Field({})
    exclude: list[ExcludeEntry] = Field([])
    include: list[Included] = Field([])
    defaults: Defaults = Defaults()
    known: list[KnownEntry] = Field([])
    selections: dict[Name, list[Selection]] = Field(
        {}, description="names for lists of selectors; a selection named after a backend is its default"
    )
    targets: dict[Name, TargetEntry] = Field({}, description="kinds of devices for `--target`, as schedulers know them")
    max_checks: PositiveInt = Field(100_000, description="refuse to expand to more checks than this")
    _claims: tuple[dict[str, Any], ...] = ()
    _document: Document = PrivateAttr(default_factory=lambda: Document(name=""))
    _catalogue: Catalogue = PrivateAttr(default_factory=catalogue)

    @property
    def document(self) -> Document:
        """The file, which knows the place of each value."""
        return self._document

    @property
    def probes(self) -> list[str]:
        """The probes to run, unless a library says otherwise."""
        return [entry for entry in self.probes_ if not is_folder(entry)] or [*PROBES]

    @property
    def folders(self) -> Mapping[str, Path]:
        """The folders of probe modules, as the file names them -> as seen from here."""
        entries = ((index, entry) for index, entry in enumerate(self.probes_) if is_folder(entry))
        return {entry: self._document.file(("probes", index)).parent / entry for index, entry in entries}

    @property
    def catalogue(self) -> Catalogue:
        """The libraries that have probes: ours, those of installed packages, those of the folders."""
        return self._catalogue

    @property
    def claims(self) -> tuple[dict[str, Any], ...]:
        """The claims of claims.yaml beside the file, as plain data; empty where there is no such file."""
        return self._claims

    @property
    def source(self) -> str:
        """The path of the file, as the user wrote it."""
        return self._document.name

    @property
    def included(self) -> list[tuple[int, IncludeEntry]]:
        """The cells of `include:`, each with its place in the list, which also names files."""
        return [(index, entry) for index, entry in enumerate(self.include) if not isinstance(entry, str)]

    def entries_of(self, library: str) -> Sequence[LibraryEntry]:
        """The entries of a library, in the file's order; none where the file does not have it."""
        entries = self.libraries.get(library, [])
        return entries if isinstance(entries, list) else [entries]

    def entry_paths(self, library: str) -> list[tuple[tuple[str | int, ...], LibraryEntry]]:
        """The entries of a library, each with its place in the file."""
        several = isinstance(self.libraries[library], list)
        return [
            (("libraries", library, *([index] if several else [])), entry)
            for index, entry in enumerate(self.entries_of(library))
        ]

    def entry_of(self, cell: model.Cell) -> LibraryEntry | StackEntry:
        """The entry that the cell comes from."""
        if cell.subject in self.stacks:
            return self.stacks[cell.subject]
        return next(entry for entry in self.entries_of(cell.subject) if (entry.label or "") == cell.label)

    @property
    def entries(self) -> list[tuple[str, LibraryEntry]]:
        """Each library's name with each of its entries."""
        return [(name, entry) for name in self.libraries for entry in self.entries_of(name)]

    def commands_of(self, image: str) -> dict[str, CommandEntry]:
        """The image's own commands, the file's among them."""
        return {**self.commands, **self.images[image].commands}

    def model_images(self) -> tuple[model.Image, ...]:
        """The images as the runner's nouns, with the file's limits and the defaults filled in."""
        return tuple(
            model.Image(
                name=name,
                tag=image.tag,
                digest=image.digest,
                python=image.python,
                local=Local(python=image.local.python, requires=tuple(image.local.requires)) if image.local else None,
                expects=image.expects.model_dump(exclude_defaults=True),
                claim=image.claim,
                labels=tuple(image.labels),
                owner=image.owner or "",
                env=image.env,
                platform=image.platform or "",
                user=image.user or "",
                mounts=image.mounts,
                pull=image.pull or self.pull,
                commands=_commands(self.commands_of(name)),
                limits=_limits(self.limits, image.limits),
            )
            for name, image in self.images.items()
        )

    def model_known(self) -> tuple[model.Known, ...]:
        """The known issues as the runner's nouns, with their places."""
        return tuple(
            model.Known(**{**entry.model_dump(), "expect": entry.expect}, place=self._document.place(("known", index)))
            for index, entry in enumerate(self.known)
        )


def json_schema() -> str:
    """The JSON schema of the file, for editors, as published in docs/matrix.schema.json."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "matrix.yaml"}
    return json.dumps({**Matrix.model_json_schema(), **head}, indent=2) + "\n"


def _commands(entries: Mapping[str, CommandEntry]) -> tuple[model.Command, ...]:
    return tuple(
        model.Command(name=name, command=tuple(entry.command), status=entry.status, output=entry.output)
        for name, entry in entries.items()
    )


def _limits(*entries: LimitsEntry) -> Limits:
    limits: dict[str, Any] = {}
    for entry in entries:
        limits.update(entry.model_dump(exclude_none=True))
        timeout = limits.pop("timeout", None)
        if isinstance(timeout, dict):
            limits["timeouts"] = {**limits.get("timeouts", {}), **timeout}
        elif timeout is not None:
            limits["timeout_s"] = timeout
    if "compile_timeout" in limits:
        limits["compile_timeout_s"] = limits.pop("compile_timeout")
    return Limits(**limits)
