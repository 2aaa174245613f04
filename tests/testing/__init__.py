"""Tests of the test kit, except for the behaviour of a job server: that is compared with gearmand in tests/contract."""
