"""Studies that search better parameters, with the pipeline's own trainer. The only package that imports Optuna."""
