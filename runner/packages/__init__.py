"""What would pip have done: what a requirement adds to an image, and the folder that holds it."""
