"""Many trainings in one directory: cells, their files, who runs them."""
