"""Speculative speculative decoding: the algorithm and its engine. No Ray, no HTTP."""
