"""What a model gives away about the records that it was trained on."""
