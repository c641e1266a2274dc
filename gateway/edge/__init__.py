"""HAProxy and its configuration: which worker gets a call, what is retried, what a caller is told."""
