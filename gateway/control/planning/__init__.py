"""What a config would change, found out without a change."""
