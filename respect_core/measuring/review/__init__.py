"""Ask people what follow-ups mean where that matters most, and measure decoders by their answers."""
