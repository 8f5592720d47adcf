"""Secrets in addresses, and addresses without any."""

import subprocess
import sys

import pytest

from mnist_pipeline.provenance.redaction import public_uri, redact

SECRET = "hunter2"  # noqa: S105 - of nobody


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("postgresql+psycopg2://user:hunter2@host:5432/runs?sslmode=require", "postgresql+psycopg2://host:5432/runs"),
        ("postgresql://user:hunt/hunter2?@host/runs", "postgresql://host/runs"),
        ("mysql://user:p@hunter2@host/runs", "mysql://host/runs"),
        ("https://hunter2@host/mlflow", "https://host/mlflow"),
        ("https://host/mnist/?X-Amz-Signature=hunter2&x=1", "https://host/mnist/"),
        ("https://host/mnist/#access_token=hunter2", "https://host/mnist/"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_addresses_lose_their_secrets(uri: str, public: str) -> None:
    assert public_uri(uri) == public
    assert SECRET not in redact(f"cannot reach '{uri}', giving up")


def test_code_that_puts_an_address_together_stays_as_it_is() -> None:
    code = 'url = f"https://{user}:{password}@{host}/?token={token}"\nsee https://example.org/?page=2'
    assert redact(code) == code


def test_a_traceback_has_no_password() -> None:
    code = (
        "from mnist_pipeline.cli import run_command\n"
        f"def crash(): raise ConnectionError('cannot reach https://somebody:{SECRET}@127.0.0.1/')\n"
        "run_command(crash)"
    )
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "ConnectionError: cannot reach https://***@127.0.0.1/" in done.stderr
    assert SECRET not in done.stderr
