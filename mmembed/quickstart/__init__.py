"""The main job from end to end, offline, on a CPU: train, soup, judge, index, search."""
