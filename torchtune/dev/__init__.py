"""What may still change: group-relative policy optimization under torchtune's names."""
