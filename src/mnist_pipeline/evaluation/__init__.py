"""Measures of a trained model on the held-out test split, as numbers and as figures."""
