"""Sources of examples and the streams of batches made from them."""
