"""From a YAML file to a running service: configuration, local cluster, command line."""
