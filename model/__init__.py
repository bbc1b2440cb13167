"""The network, its weights under the reference's names, its checkpoints and its CPU engine."""
