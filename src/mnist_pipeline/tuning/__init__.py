"""Studies that search better parameters, with the pipeline's own trainer. The only room that imports Optuna."""
