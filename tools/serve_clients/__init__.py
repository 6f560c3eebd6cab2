"""The server asked by the clients that people use, by a fuzzer, and by many at once."""
