"""What an operator sees: rules for Prometheus, made of the service's metrics, and dashboards and alerts for Grafana."""
