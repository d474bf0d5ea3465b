"""Experiments: what is varied, what came of it, and the pictures of that. The page is README.md."""
