"""lm-evaluation-harness on a steered model: what it asks for, and its scores."""
