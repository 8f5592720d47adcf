"""Keras architectures and the layers before them. Nothing here knows about files or MLflow."""
