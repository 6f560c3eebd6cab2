"""Pictures and clips from anywhere: read within limits, upright, and as pixel_values."""
