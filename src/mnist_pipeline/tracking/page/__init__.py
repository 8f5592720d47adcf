"""MLflow's page: starting it, and what it shows at first."""
