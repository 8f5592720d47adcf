"""The verified walk back from a run: printed by `mnist lineage`, repeated by `mnist reproduce`."""
