"""From a recipe to model folders: gather, optimizer, checkpoints, one stage, many stages."""
