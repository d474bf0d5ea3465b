"""The measurement behind `ssd-serve demo` and `ssd-serve bench`: workload -> measure -> summary -> table, chart, report."""
