"""Judges that ask a language model: rubrics, requests, cache."""
