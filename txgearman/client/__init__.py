"""The client: API, policy and wire protocol."""
