"""One connection to one job server, and the pool of them."""
