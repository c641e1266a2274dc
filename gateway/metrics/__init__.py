"""Every metric: what workers count, and how Prometheus is told.

A worker counts in plain numbers and sends them to the gateway with its reports; the gateway adds up all
workers, those that are gone included, and gives the sums to prometheus-client.
"""
