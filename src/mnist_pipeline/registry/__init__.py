"""Champion and challenger in the MLflow model registry: the contest, the model card, rollback."""
