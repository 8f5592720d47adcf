"""MNIST from download to a registered champion with DVC, Keras, Optuna and MLflow."""
