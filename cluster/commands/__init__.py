"""The subcommands of `ssd-serve`, one file each: `add(subparsers)` describes it, `run(args)` does it and returns the exit code."""
