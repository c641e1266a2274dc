"""Rollouts as they run: observation, gates, orders, history, webhooks."""
