"""`mnist export`: the files decide as Keras does, are kept with the run, and never come near the test split."""

from pathlib import Path

import pytest
from registered import register

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.registry.exports import export_version
from mnist_pipeline.serving.formats import Format, need

EXTRA = "`pip install '.[export]'`"


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    for package in ("ai_edge_litert", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package, reason=EXTRA)


def test_every_format_decides_as_keras_does_and_is_logged_with_the_run(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    version = register(project, tmp_path, seed=1)
    (project.split / "test.npz").unlink()
    export_version(project, "models:/mnist/1", list(Format), tmp_path / "out")
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    found = {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows}
    assert list(found) == ["keras", *Format]
    for form in (Format.ONNX, Format.LITERT, Format.SAVED_MODEL):
        assert float(found[form][2]) < 1e-5
        assert found[form][3] == "0"
    assert 1e-5 < float(found[Format.INT8][2]) < 0.1
    assert float(found[Format.INT8][0].replace(",", "")) < float(found[Format.LITERT][0].replace(",", ""))
    kept = {Path(file.path).name for file in MlflowClient().list_artifacts(version.run_id, "exports")}
    assert kept == {"mnist-1.onnx", "mnist-1.tflite", "mnist-1-int8.tflite", "mnist-1-saved_model"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == kept

    export_version(project, "1", [Format.SAVED_MODEL], tmp_path / "out")  # takes the place of the former
    with pytest.raises(UserError, match="no version champion of models:/mnist: `mnist models` lists"):
        export_version(project, "models:/mnist@champion", [Format.LITERT], None)


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(UserError, match=r"`mnist export` needs no_such_package: .*`pip install '\.\[export\]'`"):
        need("export", "`mnist export`", "json", "no_such_package")
