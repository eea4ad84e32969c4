"""Trainable tasks: each wires data, network, loss, measures and pictures."""
