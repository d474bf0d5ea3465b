"""The load test behind `ssd-serve loadtest`: arrivals -> workers -> summary -> ramp, report."""
