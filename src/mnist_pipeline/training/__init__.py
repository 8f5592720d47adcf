"""The one training loop, used by the pipeline, the tuner and the benchmarks alike."""
