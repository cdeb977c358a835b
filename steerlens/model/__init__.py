"""The model: loading, text to tokens, forward passes, activations."""
