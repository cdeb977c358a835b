"""How well a vector steers: ratings, factor selection, layer scans, attacks, benchmarks."""
