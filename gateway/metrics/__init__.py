"""Every metric: what workers count, and how Prometheus is told.

A worker counts in plain numbers and sends them to the gateway every second; the gateway adds up all
workers, those that are gone included, and gives them to prometheus-client. Names and units follow
https://prometheus.io/docs/practices/naming/.
"""
