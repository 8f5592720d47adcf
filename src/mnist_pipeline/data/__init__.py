"""From the published files to train, validation and test arrays. NumPy and pandas only."""
