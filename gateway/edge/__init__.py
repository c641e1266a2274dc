"""HAProxy with our configuration: versions, weights, retries, errors."""
