"""Grafana's dashboards, and the code that they are made from."""
