"""What a stage was produced from: DVC's files, git, the environment. Neither MLflow nor Keras."""
