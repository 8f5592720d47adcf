"""`mnist lineage`: where a run or a registered model comes from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mnist_pipeline.core.console import console
from mnist_pipeline.core.project import Project
from mnist_pipeline.provenance.search import Finding, State
from mnist_pipeline.reproduction.walk import walk

if TYPE_CHECKING:
    from rich.tree import Tree

STYLES: Mapping[State, str] = {"verified": "green", "changed": "red", "missing": "yellow"}


def show(project: Project, reference: str) -> bool:
    """Print the way back as a tree, each step below the one that was produced from it; return whether all is verified.

    Raises:
        UserError: there is no such run or version.
    """
    from rich.segment import Segments
    from rich.tree import Tree

    with walk(project, reference) as found:
        findings = found.findings
    root = node = Tree("", hide_root=True)
    for finding in findings:
        node = _grow(node, finding)
    # `print` itself would cut the lines, and with them hashes, to the width of the terminal, or to 80 without one.
    out = console()
    out.print(Segments(out.render(root, out.options.update(width=400))), crop=False)
    return all(each.state == "verified" for finding in findings for each in finding.all())


def _grow(node: "Tree", finding: Finding) -> "Tree":
    """Add a finding and its parts below a node; return its own node."""
    from rich.text import Text

    what = " ".join(filter(None, (finding.what, finding.recorded)))
    line = Text.assemble((f"{finding.state:<9}", STYLES[finding.state]), what)
    own = node.add(line.append(f" ({finding.found})", "dim") if finding.found else line)
    for part in finding.parts:
        _grow(own, part)
    return own
