"""The vision graph at work: pixel_values to kept visual tokens, kept features, drawings of what was
kept."""
