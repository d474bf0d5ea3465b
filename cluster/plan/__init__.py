"""Behind `ssd-serve plan`: a bench's JSON to figures, and predictions as text; a described cluster to a placement."""
