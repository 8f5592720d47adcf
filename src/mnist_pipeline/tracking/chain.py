"""`mnist lineage`: the way back from a registered model or a run to the raw files and the commit, each link recomputed.

A link is verified if what it names was found and has the recorded content, changed if it was found with another
content, and missing if it was not found. Data are looked for in the workspace and then in DVC's cache, code in git, the
model in the store.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.console import console
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.checks import Evidence, State, find_data, rebuild_code, sha256_of
from mnist_pipeline.tracking.contents import DIFF, DIFF_DIGEST, PARAMS, TRACE
from mnist_pipeline.tracking.inputs import Trace, in_room, parameters_in
from mnist_pipeline.tracking.pipeline import base_folder
from mnist_pipeline.tracking.reference import Artifacts, compare, resolve
from mnist_pipeline.tracking.runs import MODEL_DIGEST
from mnist_pipeline.tracking.store import open_store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from rich.tree import Tree

WIDTH = 400
"""Characters: no line is cut, so that hashes can be copied."""
STYLES: Mapping[State, str] = {"verified": "green", "changed": "red", "missing": "yellow"}


@dataclass(frozen=True)
class Link:
    """One station on the way back."""

    what: str
    """In a few words."""
    state: State
    detail: str = ""
    parts: tuple["Link", ...] = ()
    """What it consists of."""

    @property
    def is_verified(self) -> bool:
        """Return whether it and all its parts are."""
        return self.state == "verified" and all(part.is_verified for part in self.parts)


def show(project: Project, reference: str) -> bool:
    """Print the chain as a tree, each link below the one that was made from it; return whether all are verified.

    Raises:
        UserError: there is no such run or version, or it holds no record of its inputs.
    """
    from rich.segment import Segments

    links = chain(project, reference)
    tree = _node(links[0])
    node = tree
    for link in links[1:]:
        node = node.add(_node(link))
    # `print` itself would cut the lines to the width of the terminal, or to 80 where there is none.
    out = console()
    out.print(Segments(out.render(tree, out.options.update(width=WIDTH))), crop=False)
    return all(link.is_verified for link in links)


def chain(project: Project, reference: str) -> list[Link]:
    """Return the links from the registered version or the run back to the commit."""
    client = open_store(project)
    version, run = resolve(client, reference)
    links = [_version_link(version, run)] if version else []
    if run is None:
        return [*links, Link(f"run {version.run_id if version else reference}", "missing", "not in the store any more")]
    with tempfile.TemporaryDirectory() as folder:
        return [*links, _run_link(run), *_links_behind(project, run, Artifacts(client, run, Path(folder)))]


def _links_behind(project: Project, run: "Run", artifacts: Artifacts) -> list[Link]:
    """Return what the run holds, and what that was made from."""
    model = [_model_link(run, artifacts)] if MODEL_DIGEST in run.data.tags else []
    if (text := artifacts.text(TRACE)) is None:
        return [*model, Link("inputs of the stage", "missing", f"the run has no {TRACE}")]
    trace = Trace.from_json(text)
    inputs, data = _inputs_link(run, trace, artifacts), _data_links(project, trace)
    return [*model, inputs, *data, _commit_link(project, run, trace, artifacts)]


def _version_link(version: "ModelVersion", run: "Run | None") -> Link:
    aliases = "".join(f" @{alias}" for alias in version.aliases or [])
    what = f"registered version {version.name}/{version.version}{aliases}"
    if run is None:
        return Link(what, "verified")
    same = version.tags.get(MODEL_DIGEST) == run.data.tags.get(MODEL_DIGEST)
    return Link(what, "verified" if same else "changed", "" if same else "it and its run name different model files")


def _run_link(run: "Run") -> Link:
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    restored = ", restored from files" if run.data.tags.get("restored") == "true" else ""
    command = run.data.tags.get("mlflow.source.name", "")
    return Link(f"run {run.info.run_id}", "verified", f"`{command}`, {run.info.status}, {started}{restored}")


def _model_link(run: "Run", artifacts: Artifacts) -> Link:
    digest = run.data.tags[MODEL_DIGEST]
    file = artifacts.model_file()
    return Link(f"model file md5 {digest}", compare(file, digest), "in the store")


def _inputs_link(run: "Run", trace: Trace, artifacts: Artifacts) -> Link:
    """Recompute the key from the recorded inputs, and compare the recorded parameters with params.yaml."""
    inputs = trace.inputs
    what = f"{inputs.stage} inputs {inputs.key[:12]}"
    detail = f"`{inputs.command}`, {len(inputs.code)} code files, {len(inputs.parameters)} parameters"
    same = inputs.key == run.data.tags.get("inputs_key")
    params = artifacts.path(PARAMS)
    if params is None:
        part = Link(PARAMS, "missing")
    else:
        found = parameters_in(params, list(trace.parameters))
        part = Link(PARAMS, "verified" if found == dict(trace.parameters) else "changed")
    return Link(what, "verified" if same else "changed", detail, (part,))


def _data_links(project: Project, trace: Trace) -> list[Link]:
    """Return split, normalized and raw data, as far back as the trace goes."""
    links: list[Link] = []
    for room in ("split", "normalized", "raw"):
        pieces = {path: digest for path, digest in trace.data.items() if in_room(path, room)}
        parts = [_data_link(project, path, digest) for path, digest in pieces.items()]
        for folder in pieces if room == "raw" else ():
            parts += [_raw_link(project, f"{folder}/{file}", digest) for file, digest in trace.raw_files.items()]
        if not parts:
            links.append(Link(room, "missing", "dvc.lock did not say what was made from what when the run was logged"))
        else:
            links.append(Link(room, "verified", parts=tuple(parts)))
    return links


def _data_link(project: Project, path: str, digest: str) -> Link:
    evidence = find_data(project, path, digest)
    return Link(f"{path} md5 {digest}", evidence.state, evidence.where)


def _raw_link(project: Project, path: str, digest: str) -> Link:
    """Check a raw file by its MD5, and its SHA-256 against the published one."""
    from mnist_pipeline.data.download import FILES

    evidence: Evidence = find_data(project, path, digest)
    link = Link(f"{path} md5 {digest}", evidence.state, evidence.where)
    published = {file.name: file.sha256 for file in FILES}.get(Path(path).name)
    if evidence.state != "verified" or evidence.path is None:
        return link
    found = sha256_of(evidence.path)
    if found == published:
        return replace(link, detail=f"{evidence.where}, sha256 {found} as published")
    return replace(link, detail=f"{evidence.where}, sha256 {found}, not MNIST as published")


def _commit_link(project: Project, run: "Run", trace: Trace, artifacts: Artifacts) -> Link:
    """Rebuild the stage's code from the commit and the recorded diff, and compare each file."""
    commit = run.data.tags.get("git_commit", "")
    diff: Path | None = None
    parts: list[Link] = []
    if digest := run.data.tags.get(DIFF_DIGEST):
        diff = artifacts.path(DIFF)
        parts.append(Link(f"uncommitted changes md5 {digest}", compare(diff, digest), DIFF))
    code = rebuild_code(base_folder(project), commit, diff, trace.inputs.code)
    parts.append(Link(f"{len(trace.inputs.code)} code files", code.state, code.where))
    known = code.state != "missing" or code.path is not None
    return Link(
        f"commit {commit}", "verified" if known else "missing", run.data.tags.get("git_branch", ""), tuple(parts)
    )


def _node(link: Link) -> "Tree":
    from rich.text import Text
    from rich.tree import Tree

    def line(link: Link) -> Text:
        text = Text.assemble((f"{link.state:<9}", STYLES[link.state]), link.what)
        return text.append(f" ({link.detail})", "dim") if link.detail else text

    tree = Tree(line(link))
    for part in link.parts:
        tree.add(line(part))
    return tree
