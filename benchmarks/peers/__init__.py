"""Other engines on the workloads of `benchmarks.end_to_end`; each script runs where that engine is installed, without Octavo."""
