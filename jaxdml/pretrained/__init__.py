"""Published weights for the encoders: converted once, checked, kept with their preprocessing."""
