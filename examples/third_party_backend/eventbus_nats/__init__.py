"""NATS JetStream backend of eventbus: a plugin from outside the project."""
