"""The edge of the pipeline: one module per DVC stage, joining files, pure functions and MLflow."""
