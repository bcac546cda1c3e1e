"""What was asked for, and the numbers that follow from it: classes, seeds, prompts, guidance. Knows no torch."""
