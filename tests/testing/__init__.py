"""The parts of the test kit that are not a job server's behaviour: that one is held to gearmand by tests/contract."""
