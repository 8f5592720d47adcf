"""MLflow: the store, the runs and what goes into them, and keeping them in step with the files."""
