"""Training a vector: objectives, settings, parameters, the loop."""
