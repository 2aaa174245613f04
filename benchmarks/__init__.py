"""How fast it is: ``python -m benchmarks``. See README.md here."""
