"""Makes the embedded model octavo-tiny: data, training, export, scores."""
