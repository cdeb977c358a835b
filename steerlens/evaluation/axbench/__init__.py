"""The AxBench protocol: instructions, methods, files, the benchmark itself."""
