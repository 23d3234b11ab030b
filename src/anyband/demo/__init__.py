"""The main job from start to end: rasters of several sensors in, one report out."""
