"""Records of calls, from files: what a rollout's judge would have said of them."""
