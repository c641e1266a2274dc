"""Models of TensorFlow: SavedModels, and Keras files."""
