"""What ``eventbus run`` needs around a worker: the application, log lines, health, and processes to supervise."""
