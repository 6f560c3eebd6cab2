"""Answers on another CPU, emulated, compared with this machine's."""
