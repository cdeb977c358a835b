"""Vectors against the features of sparse autoencoders."""
