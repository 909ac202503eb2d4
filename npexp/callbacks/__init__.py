"""What happens beside training: checkpoints, seeds, measurements, figures and reports."""
