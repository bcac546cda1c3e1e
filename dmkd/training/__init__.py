"""From batches to a student: recipe, loss, optimisation, checkpoints, several processes."""
