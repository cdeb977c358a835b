"""Applying vectors to a model: hooks, prompt told from response, generation, audit."""
