"""What was asked for, and the numbers that follow from it: classes, seeds, prompts, guidance. Imports no torch."""
