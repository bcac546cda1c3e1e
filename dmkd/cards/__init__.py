"""What is written for people: cards of data sets and of models, and licences."""
