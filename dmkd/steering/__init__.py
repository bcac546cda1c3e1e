"""Choosing and pushing images by what a student has not learned: scores, and what they are used for."""
