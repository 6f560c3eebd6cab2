"""Compiles the Kotlin client and lets it answer on this machine, without Android."""
