"""Rollouts as they run: evidence, gates, webhooks."""
