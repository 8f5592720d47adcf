"""What every package needs: paths, atomic files, the console, errors, reading params.yaml."""
