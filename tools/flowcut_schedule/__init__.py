"""Makes the stages of FlowCut for a checkpoint, see `flowcut_schedule.__main__`."""
