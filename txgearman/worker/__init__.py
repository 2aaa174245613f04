"""The worker: API, policy and wire."""
