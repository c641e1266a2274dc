"""The queue, the batches and the thread of a model."""
