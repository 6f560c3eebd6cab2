"""Answers on another CPU, emulated, held against this machine's."""
