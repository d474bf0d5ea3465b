"""Behind `ssd-serve plan`: a bench's JSON to figures, and predictions as text."""
