"""What a model card is made of, of a model that there never was."""

from collections import Counter
from typing import Any

from small_project import MNIST

PAIRS = [(digit, digit) for digit in MNIST.classes] * 98 + [("4", "9")] * 3 + [("4", "7")] + [("9", "4")] * 2
COUNTS = Counter(digit for digit, _ in PAIRS)
FACTS: dict[str, Any] = {
    "data": MNIST,
    "name": "cnn",
    "run_id": "0123456789abcdef",
    "commit": "c0ffee",
    "dirty": False,
    "seed": 3,
    "params": {
        "normalization": "unit",
        "architecture": {"kind": "cnn", "blocks": [{"filters": 24, "dropout": 0.0}], "dense_units": [256]},
        "training": {"epochs": 10, "optimizer": {"name": "adamw", "learning_rate": 0.004}},
        "augmentation": {"rotation": 10},
    },
    "robustness": {"shift": 0.97, "uneven_light": 0.5, "noise": 0.75},
    "images": {"train": 55_000, "validation": 5_000},
    "digests": {"train": "aaaa", "validation": "bbbb"},
    "training": {
        "parameters": 215_194, "validation_accuracy": 0.9952, "validation_loss": 0.01497, "best_epoch": 9, "epochs": 10,
    },
    "test": {
        "images": len(PAIRS), "accuracy": 980 / 986, "accuracy_low": 0.9868, "accuracy_high": 0.9972, "loss": 0.0142,
        "macro_precision": 0.9941, "macro_recall": 0.9942, "macro_f1": 0.9943, "expected_calibration_error": 0.0017,
        "recall": {digit: 98 / COUNTS[digit] for digit in MNIST.classes},
    },
}  # fmt: skip
