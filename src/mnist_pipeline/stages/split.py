"""The `split` stage: data/raw to data/split."""

from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import atomic_path, write_json
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import Subset, save_subset
from mnist_pipeline.data.idx import read_part
from mnist_pipeline.data.params import Split, load_data
from mnist_pipeline.data.split import count_classes, count_duplicates, make_manifest, split_indices


def run(project: Project, params: Split | None) -> None:
    """Write the three subsets as raw pixels, the manifest, the class counts and a summary.

    The images to test on stay the test split.

    Raises:
        UserError: a raw file is missing or damaged, or the validation size leaves a class out.
    """
    if params is None:
        raise UserError(f"{project.params} has no section `split`: run `mnist split` in {project.top}.")
    data = load_data(project)
    images, labels = read_part(project.raw, "train", data)
    train, validation = split_indices(labels, params.validation_size, params.seed, data.classes)
    subsets = {
        "train": Subset(images[train], labels[train]),
        "validation": Subset(images[validation], labels[validation]),
        "test": Subset(*read_part(project.raw, "t10k", data)),
    }
    manifest = make_manifest(labels, validation, subsets["test"].labels)
    duplicates = count_duplicates(subsets)
    for name, subset in subsets.items():
        save_subset(project.split / f"{name}.npz", subset)
    with atomic_path(project.split / "manifest.parquet") as temporary:
        manifest.to_parquet(temporary, index=False)
    with atomic_path(project.class_counts) as temporary:
        count_classes(manifest, data.classes).to_csv(temporary, index=False)
    sizes = {name: len(subset) for name, subset in subsets.items()}
    write_json(project.split_summary, {"images": sizes, "duplicates": duplicates})
    across = sum(count for pair, count in duplicates.items() if pair not in subsets)
    say(
        f"Split into {', '.join(f'{count:,} {name}' for name, count in sizes.items())} images; "
        f"{across} pixel-identical across subsets, {sum(duplicates.values()) - across} within."
    )
