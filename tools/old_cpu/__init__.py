"""Holds answers on a CPU without the instructions that integer graphs like best against those of this machine."""
